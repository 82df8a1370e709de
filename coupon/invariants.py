"""What must always be true of policies and coupons; each query returns what breaks it."""

from coupon.store import SQL
from infra.invariants import Invariant

INVARIANTS = [
    Invariant(
        "coupon_issued_matches_coupons",
        "a policy's issued quantity is the number of its coupons, and at most its total",
        SQL["invariant_issued_is_coupons"],
    ),
    Invariant(
        "coupon_users_within_limit",
        "no user was ever issued more coupons than the policy allows one user",
        SQL["invariant_users_within_limit"],
    ),
    Invariant(
        "coupon_user_seq_without_gaps",
        "a user's n coupons under a policy are numbered 1 to n",
        SQL["invariant_user_seq_without_gaps"],
    ),
    Invariant(
        "coupon_as_its_policy",
        "a coupon ends with its policy and carries its limit",
        SQL["invariant_coupon_as_its_policy"],
    ),
    Invariant(
        "coupon_each_issue_has_its_event",
        "each coupon of the last days has exactly one coupon.issued, and no other coupon has one",
        SQL["invariant_each_coupon_has_its_event"],
    ),
    Invariant(
        "coupon_each_end_has_its_event",
        "each use, cancellation and expiry of the last days has exactly one event, and no event is without it",
        SQL["invariant_each_end_has_its_event"],
    ),
]
