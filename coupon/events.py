"""The events of coupons: which topic a change is told on, and what it says."""

from typing import TypeAlias

from coupon.messages import coupon_message
from coupon.rules import Claim, Coupon, CouponStatus
from infra.events import Event
from protos.events.v1 import coupon_events_pb2 as pb

_CouponEvent: TypeAlias = type[pb.CouponIssued | pb.CouponUsed | pb.CouponCanceled | pb.CouponExpired]

# The status a coupon enters, and how that is told.
_TOLD: dict[CouponStatus, tuple[str, _CouponEvent]] = {
    CouponStatus.AVAILABLE: ("coupon.issued", pb.CouponIssued),
    CouponStatus.USED: ("coupon.used", pb.CouponUsed),
    CouponStatus.CANCELED: ("coupon.canceled", pb.CouponCanceled),
    CouponStatus.EXPIRED: ("coupon.expired", pb.CouponExpired),
}


def coupon_entered(coupon: Coupon, cause: Claim | None = None) -> Event:
    """The coupon entered the status it has: traced under the claim that made it, else under the current span."""
    topic, event = _TOLD[coupon.status]
    now = coupon_message(coupon)
    optional = {
        name: getattr(now, name)
        for name in (
            "order_id",
            "order_amount",
            "discount_amount",
            "final_amount",
            "used_at",
            "canceled_at",
            "expired_at",
        )
        if now.HasField(name)
    }
    return Event(
        topic=topic,
        key=str(coupon.id),
        message=event(
            id=now.id,
            coupon_id=now.id,
            user_id=now.user_id,
            coupon_policy_id=now.coupon_policy_id,
            status=now.status,
            issued_at=now.issued_at,
            expiration_time=now.expiration_time,
            policy=now.policy,
            **optional,
        ),
        traceparent=cause.traceparent if cause else None,
        tracestate=cause.tracestate if cause else None,
    )
