"""What an event says: the fields its consumers were promised, under the names they were promised."""

import pytest
from google.protobuf.message import Message

from infra import render
from protos.events.v1 import coupon_events_pb2 as coupons
from protos.events.v1 import point_events_pb2 as points
from protos.events.v1 import timesale_events_pb2 as sales

COUPON = {"id", "couponId", "userId", "couponPolicyId", "policy", "status"}
POINT = {"id", "userId", "amount", "newBalance", "createdAt", "type", "balanceSnapshot", "description"}
SALE = {"id", "timeSaleId", "productId", "quantity", "remainingQuantity", "status", "startAt", "endAt"}
PROMISED: dict[type[Message], set[str]] = {
    coupons.CouponIssued: COUPON | {"issuedAt", "expirationTime"},
    coupons.CouponUsed: COUPON | {"orderId", "orderAmount", "discountAmount", "finalAmount", "usedAt"},
    coupons.CouponCanceled: COUPON | {"orderId", "orderAmount", "discountAmount", "canceledAt"},
    coupons.CouponExpired: COUPON | {"expiredAt"},
    points.PointEarned: POINT,
    points.PointSpent: POINT,
    points.PointCanceled: POINT | {"originalTransactionId"},
    sales.TimeSaleCreated: SALE,
    sales.TimeSaleStarted: SALE,
    sales.TimeSaleSoldOut: SALE,
    sales.TimeSaleResumed: SALE,
    sales.TimeSaleEnded: SALE,
    sales.OrderCreated: {
        *("id", "orderId", "timeSaleId", "userId", "quantity", "status", "queueNumber", "unitPrice", "totalPrice"),
        *("rewardPoints", "holdId", "createdAt"),
    },
}


@pytest.mark.parametrize("message", PROMISED, ids=lambda message: message.__name__)
def test_an_event_has_the_fields_that_were_promised_even_when_they_are_empty(message: type[Message]) -> None:
    told = render.to_dict(message())
    assert PROMISED[message] - told.keys() == set()
    assert {name for name in told if name.lower().endswith("id") and name != "userId"} >= {"id"}


def test_a_coupon_event_tells_the_bonus_of_its_policy() -> None:
    event = coupons.CouponIssued(id=31)
    event.policy.bonus_points = 50
    assert render.to_dict(event)["policy"]["bonusPoints"] == 50
