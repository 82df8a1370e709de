"""What a claim gets: the policy, what the user has and the time in, a coupon or a refusal out."""

from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from uuid import UUID

from coupon.rules.words import (
    AlreadyIssued,
    Claim,
    Coupon,
    CouponStatus,
    Grant,
    NotActive,
    Owned,
    Policy,
    PolicyStatus,
    Repeat,
    SoldOut,
    UserLimit,
)
from infra.errors import NotFound, Refused


def policy_status(policy: Policy, at: datetime) -> PolicyStatus:
    """The status by the clock and the counter. Start inclusive, end exclusive; ENDED beats SOLD_OUT."""
    if at >= policy.terms.end_time:
        return PolicyStatus.ENDED
    if at < policy.terms.start_time:
        return PolicyStatus.SCHEDULED
    return PolicyStatus.ACTIVE if policy.remaining > 0 else PolicyStatus.SOLD_OUT


def decide(
    policies: Mapping[int, Policy],
    owned: Mapping[tuple[int, str], Owned],
    ids: Iterator[int],
    claims: Sequence[Claim],
    at: datetime,
) -> list[Grant | Repeat | Exception]:
    """Each claim's outcome, in arrival order on what the earlier ones left.

    `owned` is what each (policy, user) has before; `ids` are new coupon ids, as many as can be needed. A command that
    stands here twice is judged once, if its outcome is one to be remembered. What goes wrong in one claim is that
    claim's alone.
    """
    left = {policy_id: policy.remaining for policy_id, policy in policies.items()}
    has = dict(owned)
    settled: dict[UUID, Claim] = {}
    outcomes: list[Grant | Repeat | Exception] = []
    for claim in claims:
        command = claim.command
        first = settled.get(command.command_id)
        if first is not None:
            outcomes.append(Repeat(first))
            continue
        user = (claim.policy_id, claim.user_id)
        outcome = _judge(policies.get(claim.policy_id), left.get(claim.policy_id, 0), has.get(user), ids, claim, at)
        outcomes.append(outcome)
        if isinstance(outcome, Grant):
            left[claim.policy_id] -= 1
            has[user] = Owned(outcome.coupon.user_seq, outcome.coupon.id)
            settled[command.command_id] = claim
        elif isinstance(outcome, Refused) and outcome.final and command.keyed:
            settled[command.command_id] = claim
    return outcomes


def _judge(
    policy: Policy | None, left: int, owned: Owned | None, ids: Iterator[int], claim: Claim, at: datetime
) -> Grant | Exception:
    try:
        if policy is None:
            return NotFound("Coupon policy", claim.policy_id)
        return issue(policy, left, owned, ids, claim, at)
    except Exception as error:
        return error


def issue(
    policy: Policy, left: int, owned: Owned | None, ids: Iterator[int], claim: Claim, at: datetime
) -> Grant | Refused:
    """A coupon of which `left` can still be issued, or why there is none. Takes an id from `ids` only for a coupon."""
    terms = policy.terms
    if at < terms.start_time:
        return NotActive(retry_at=terms.start_time)
    if at >= terms.end_time:
        return NotActive()
    if left <= 0:
        return SoldOut(available=0, requested=1, missing=1)
    count = owned.count if owned is not None else 0
    if count >= terms.per_user_limit:
        if terms.per_user_limit == 1 and owned is not None:
            return AlreadyIssued(coupon_id=owned.coupon_id)
        return UserLimit(available=0, requested=1, missing=1)
    coupon = Coupon(
        id=next(ids),
        user_id=claim.user_id,
        status=CouponStatus.AVAILABLE,
        expiration_time=terms.end_time,
        issued_at=at,
        user_seq=count + 1,
        terms=terms,
    )
    return Grant(claim, coupon)


def refuse_early(policy: Policy | None, known: Set[UUID], claim: Claim, at: datetime | None) -> SoldOut | None:
    """SoldOut if the claim can be answered so without a lock; None leaves it to the batch, which knows more."""
    if policy is None or at is None or claim.command.command_id in known or policy.remaining > 0:
        return None
    outcome = issue(policy, policy.remaining, None, iter(()), claim, at)
    return outcome if isinstance(outcome, SoldOut) else None
