"""The events of coupons: which topic a change is told on, and what it says."""

from typing import TypeAlias

from coupon.rules import Claim
from infra.events import Event
from protos.coupon.v1 import coupon_pb2
from protos.events.v1 import coupon_events_pb2 as pb

_CouponEvent: TypeAlias = type[pb.CouponIssued | pb.CouponUsed | pb.CouponCanceled | pb.CouponExpired]

# The status a coupon enters, and how that is told.
_TOLD: dict[coupon_pb2.CouponStatus.ValueType, tuple[str, _CouponEvent]] = {
    coupon_pb2.COUPON_STATUS_AVAILABLE: ("coupon.issued", pb.CouponIssued),
    coupon_pb2.COUPON_STATUS_USED: ("coupon.used", pb.CouponUsed),
    coupon_pb2.COUPON_STATUS_CANCELED: ("coupon.canceled", pb.CouponCanceled),
    coupon_pb2.COUPON_STATUS_EXPIRED: ("coupon.expired", pb.CouponExpired),
}


def coupon_entered(coupon: coupon_pb2.Coupon, cause: Claim | None = None) -> Event:
    """The coupon entered the status it has: traced under the claim that made it, else under the current span."""
    topic, event = _TOLD[coupon.status]
    said = {field.name: value for field, value in coupon.ListFields()}  # a field that is not set is not said
    return Event(
        topic=topic,
        key=str(coupon.id),
        message=event(coupon_id=coupon.id, **said),
        traceparent=cause.traceparent if cause else None,
        tracestate=cause.tracestate if cause else None,
    )
