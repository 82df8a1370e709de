"""The words of a campaign: its policy, its coupons, their states, the refusals.

Money and points are in the smallest unit, up to 2^53-1, the largest integer every JSON reader keeps whole; quantities
up to 10^9.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from infra.caller import Command
from infra.errors import Kind, Refused

MONEY_MAX = 2**53 - 1
UNITS_MAX = 10**9


class DiscountType(StrEnum):
    """What `discount_value` is: money, or 1-100 percent of the order's amount, rounded down."""

    FIXED_AMOUNT = "FIXED_AMOUNT"
    PERCENTAGE = "PERCENTAGE"


class PolicyStatus(StrEnum):
    """Never stored: told by the clock and the counter."""

    SCHEDULED = "SCHEDULED"
    ACTIVE = "ACTIVE"
    SOLD_OUT = "SOLD_OUT"
    ENDED = "ENDED"


class CouponStatus(StrEnum):
    """AVAILABLE becomes USED or EXPIRED; USED becomes CANCELED. EXPIRED and CANCELED are final."""

    AVAILABLE = "AVAILABLE"
    USED = "USED"
    EXPIRED = "EXPIRED"
    CANCELED = "CANCELED"


class NotActive(Refused):
    """The policy's window is not open: not yet (then `retry_at` is its start) or no longer."""

    kind, code = Kind.STATE, "NOT_ACTIVE"


class SoldOut(Refused):
    """As many coupons as the policy allows were issued."""

    kind, code = Kind.STATE, "SOLD_OUT"


class AlreadyIssued(Refused):
    """The user has the one coupon a user may have; `coupon_id` is its id."""

    kind, code, final = Kind.STATE, "ALREADY_ISSUED", True


class UserLimit(Refused):
    """The user was issued as many coupons as a user may have."""

    kind, code = Kind.STATE, "USER_LIMIT"


class CouponNotAvailable(Refused):
    """It was used or canceled."""

    kind, code, final = Kind.STATE, "COUPON_NOT_AVAILABLE", True


class CouponExpired(Refused):
    """Its time is over."""

    kind, code, final = Kind.STATE, "COUPON_EXPIRED", True


class MinimumOrderAmount(Refused):
    """The order is too small for this coupon: `available` is its amount, `requested` the least."""

    kind, code, final = Kind.STATE, "MINIMUM_ORDER_AMOUNT", True


class AlreadyCanceled(Refused):
    """It was canceled before."""

    kind, code, final = Kind.STATE, "ALREADY_CANCELED", True


class CouponNotUsed(Refused):
    """Only a used coupon can be canceled."""

    kind, code = Kind.STATE, "COUPON_NOT_USED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What an operator says of a new policy. `maximum_discount_amount` None: no cap."""

    title: str
    description: str
    total_quantity: int
    start_time: datetime
    end_time: datetime
    discount_type: DiscountType
    discount_value: int
    minimum_order_amount: int
    maximum_discount_amount: int | None
    per_user_limit: int
    bonus_points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(Draft):
    """The rules of a campaign; they never change."""

    id: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Policy:
    """The terms and the one thing that moves: how many coupons were ever issued."""

    terms: Terms
    issued_quantity: int

    @property
    def remaining(self) -> int:
        """Coupons that can still be issued."""
        return self.terms.total_quantity - self.issued_quantity


@dataclass(frozen=True, slots=True)
class Listing:
    """A policy as clients see it at one moment."""

    policy: Policy
    status: PolicyStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """One user's right under a policy. `user_seq` numbers a user's coupons under it from 1."""

    id: int
    user_id: str
    status: CouponStatus
    expiration_time: datetime
    issued_at: datetime
    user_seq: int
    terms: Terms
    order_id: int | None = None
    order_amount: int | None = None
    discount_amount: int | None = None
    used_at: datetime | None = None
    canceled_at: datetime | None = None
    expired_at: datetime | None = None

    @property
    def final_amount(self) -> int | None:
        """What the order costs with the discount; None before the coupon was used."""
        if self.order_amount is None or self.discount_amount is None:
            return None
        return self.order_amount - self.discount_amount


@dataclass(frozen=True, slots=True)
class Claim:
    """One demand for a coupon. `traceparent` and `tracestate` are the demand's own, for the event it makes."""

    command: Command
    policy_id: int
    user_id: str
    traceparent: str | None = None
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Owned:
    """What a user has under a policy: how many coupons, whatever became of them, and the last one's id."""

    count: int
    coupon_id: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A claim that is answered with a coupon."""

    claim: Claim
    coupon: Coupon


@dataclass(frozen=True, slots=True)
class Repeat:
    """A claim whose command stood earlier in the same batch, in `of`."""

    of: Claim


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a coupon, and the refusal, if it is one. Both may be: a coupon found overdue is stored so."""

    coupon: Coupon
    refusal: Refused | None = None
