"""What becomes of a coupon: used, canceled or expired. The coupon and the time in, the coupon as it is then out."""

from dataclasses import replace
from datetime import datetime

from coupon.rules.words import (
    AlreadyCanceled,
    Coupon,
    CouponExpired,
    CouponNotAvailable,
    CouponNotUsed,
    CouponStatus,
    Decision,
    DiscountType,
    MinimumOrderAmount,
    Terms,
)
from infra.caller import Caller
from infra.errors import Forbidden


def discount_of(terms: Terms, order_amount: int) -> int:
    """What the terms take off an order, rounded down, within the cap, never more than the order's amount."""
    discount = terms.discount_value
    if terms.discount_type is DiscountType.PERCENTAGE:
        discount = order_amount * terms.discount_value // 100
    if terms.maximum_discount_amount is not None:
        discount = min(discount, terms.maximum_discount_amount)
    return min(discount, order_amount)


def use(coupon: Coupon, *, caller: Caller, order_id: int | None, order_amount: int, at: datetime) -> Decision:
    """The coupon redeemed on the order; one found overdue is EXPIRED, and refused."""
    if not caller.may_act_for(coupon.user_id):
        return Decision(coupon, Forbidden())
    if coupon.status in (CouponStatus.USED, CouponStatus.CANCELED):
        return Decision(coupon, CouponNotAvailable())
    coupon = seen_at(coupon, at)
    if coupon.status is CouponStatus.EXPIRED:
        return Decision(coupon, CouponExpired())
    least = coupon.terms.minimum_order_amount
    if order_amount < least:
        return Decision(
            coupon, MinimumOrderAmount(available=order_amount, requested=least, missing=least - order_amount)
        )
    return Decision(
        replace(
            coupon,
            status=CouponStatus.USED,
            order_id=order_id,
            order_amount=order_amount,
            discount_amount=discount_of(coupon.terms, order_amount),
            used_at=at,
        )
    )


def cancel(coupon: Coupon, *, caller: Caller, at: datetime) -> Decision:
    """The redemption undone; order and discount stay on it, and the user's limit is not given back."""
    if not caller.may_act_for(coupon.user_id):
        return Decision(coupon, Forbidden())
    if coupon.status is CouponStatus.CANCELED:
        return Decision(coupon, AlreadyCanceled())
    if coupon.status is not CouponStatus.USED:
        return Decision(coupon, CouponNotUsed())
    return Decision(replace(coupon, status=CouponStatus.CANCELED, canceled_at=at))


def seen_at(coupon: Coupon, at: datetime) -> Coupon:
    """The coupon as it is at this time, whether or not a sweep has stored it so."""
    return expire(coupon) if coupon.status is CouponStatus.AVAILABLE and at >= coupon.expiration_time else coupon


def expire(coupon: Coupon) -> Coupon:
    """The coupon, over. It expired at the instant its time was up, whoever notices when."""
    return replace(coupon, status=CouponStatus.EXPIRED, expired_at=coupon.expiration_time)
