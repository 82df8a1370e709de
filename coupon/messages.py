"""Policies and coupons as the messages other processes read, and back."""

from datetime import UTC, datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

from coupon.rules import Coupon, CouponStatus, DiscountType, Listing, PolicyStatus, Terms
from protos.coupon.v1 import coupon_pb2 as pb

# A batch's coupons share their times and terms. The kept messages are only ever copied into others.
TIMES_KEPT_MAX = 256
TERMS_KEPT_MAX = 256

DISCOUNT_TYPES: dict[DiscountType, pb.DiscountType.ValueType] = {
    DiscountType.FIXED_AMOUNT: pb.DISCOUNT_TYPE_FIXED_AMOUNT,
    DiscountType.PERCENTAGE: pb.DISCOUNT_TYPE_PERCENTAGE,
}
POLICY_STATUSES: dict[PolicyStatus, pb.PolicyStatus.ValueType] = {
    PolicyStatus.SCHEDULED: pb.POLICY_STATUS_SCHEDULED,
    PolicyStatus.ACTIVE: pb.POLICY_STATUS_ACTIVE,
    PolicyStatus.SOLD_OUT: pb.POLICY_STATUS_SOLD_OUT,
    PolicyStatus.ENDED: pb.POLICY_STATUS_ENDED,
}
COUPON_STATUSES: dict[CouponStatus, pb.CouponStatus.ValueType] = {
    CouponStatus.AVAILABLE: pb.COUPON_STATUS_AVAILABLE,
    CouponStatus.USED: pb.COUPON_STATUS_USED,
    CouponStatus.EXPIRED: pb.COUPON_STATUS_EXPIRED,
    CouponStatus.CANCELED: pb.COUPON_STATUS_CANCELED,
}
_DISCOUNT_TYPE_OF = {message: word for word, message in DISCOUNT_TYPES.items()}
_COUPON_STATUS_OF = {message: word for word, message in COUPON_STATUSES.items()}


@lru_cache(TIMES_KEPT_MAX)
def timestamp(at: datetime) -> Timestamp:
    """`at` with its microseconds, as protobuf writes it."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


def moment(message: Timestamp) -> datetime:
    """The instant in UTC, to the microsecond. :raises ValueError: outside the years 1 to 9999."""
    try:
        return message.ToDatetime(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def discount_type(message: pb.DiscountType.ValueType) -> DiscountType | None:
    """The type named, or None where the message names none or one unknown here."""
    return _DISCOUNT_TYPE_OF.get(message)


def coupon_status(message: pb.CouponStatus.ValueType) -> CouponStatus | None:
    """The status named, or None where the message names none or one unknown here."""
    return _COUPON_STATUS_OF.get(message)


def policy_message(listing: Listing) -> pb.Policy:
    """The policy as a REST client sees it."""
    terms = listing.policy.terms
    return pb.Policy(
        id=terms.id,
        title=terms.title,
        description=terms.description,
        total_quantity=terms.total_quantity,
        issued_quantity=listing.policy.issued_quantity,
        start_time=timestamp(terms.start_time),
        end_time=timestamp(terms.end_time),
        discount_type=DISCOUNT_TYPES[terms.discount_type],
        discount_value=terms.discount_value,
        minimum_order_amount=terms.minimum_order_amount,
        maximum_discount_amount=terms.maximum_discount_amount,
        created_at=timestamp(terms.created_at),
        per_user_limit=terms.per_user_limit,
        bonus_points=terms.bonus_points,
        status=POLICY_STATUSES[listing.status],
    )


@lru_cache(TERMS_KEPT_MAX)
def terms_message(terms: Terms) -> pb.PolicyTerms:
    """What a coupon shows of its policy."""
    return pb.PolicyTerms(
        id=terms.id,
        title=terms.title,
        description=terms.description,
        total_quantity=terms.total_quantity,
        start_time=timestamp(terms.start_time),
        end_time=timestamp(terms.end_time),
        discount_type=DISCOUNT_TYPES[terms.discount_type],
        discount_value=terms.discount_value,
        minimum_order_amount=terms.minimum_order_amount,
        maximum_discount_amount=terms.maximum_discount_amount,
        created_at=timestamp(terms.created_at),
        per_user_limit=terms.per_user_limit,
        bonus_points=terms.bonus_points,
    )


def coupon_message(coupon: Coupon) -> pb.Coupon:
    """The coupon as a REST client sees it."""
    return pb.Coupon(
        id=coupon.id,
        user_id=coupon.user_id,
        order_id=coupon.order_id,
        status=COUPON_STATUSES[coupon.status],
        expiration_time=timestamp(coupon.expiration_time),
        issued_at=timestamp(coupon.issued_at),
        policy=terms_message(coupon.terms),
        coupon_policy_id=coupon.terms.id,
        order_amount=coupon.order_amount,
        discount_amount=coupon.discount_amount,
        final_amount=coupon.final_amount,
        used_at=_maybe(coupon.used_at),
        canceled_at=_maybe(coupon.canceled_at),
        expired_at=_maybe(coupon.expired_at),
    )


def coupon_id(body: bytes) -> int:
    """The id of a serialized Coupon."""
    return pb.Coupon.FromString(body).id


def _maybe(at: datetime | None) -> Timestamp | None:
    return None if at is None else timestamp(at)
