"""The one renderer between messages and JSON, both ways."""

from typing import Any

import orjson
import pytest
from google.protobuf.message import Message

from infra import render
from protos.coupon.v1 import coupon_pb2
from protos.events.v1 import coupon_events_pb2, point_events_pb2, timesale_events_pb2
from protos.point.v1 import point_pb2
from protos.timesale.v1 import timesale_pb2

LARGEST = 2**53 - 1


def make_issued() -> coupon_events_pb2.CouponIssued:
    message = coupon_events_pb2.CouponIssued(
        id=31, coupon_id=31, user_id="u-1", coupon_policy_id=7, status=coupon_pb2.COUPON_STATUS_AVAILABLE
    )
    message.policy.id, message.policy.bonus_points = 7, LARGEST
    times = (message.issued_at, message.expiration_time, message.policy.start_time, message.policy.end_time)
    for time in (*times, message.policy.created_at):
        time.FromJsonString("2026-05-01T09:00:00.120Z")
    return message


def test_ids_are_strings_and_all_other_numbers_are_numbers() -> None:
    rendered = render.to_dict(make_issued())
    assert (rendered["id"], rendered["couponId"], rendered["policy"]["id"]) == ("31", "31", "7")
    assert rendered["policy"]["bonusPoints"] == LARGEST
    assert rendered["policy"]["totalQuantity"] == 0


def test_zeros_are_written_and_what_is_absent_is_null() -> None:
    rendered = render.to_dict(point_events_pb2.PointEarned())
    assert rendered["amount"] == 0
    assert rendered["description"] == ""
    assert rendered["originalTransactionId"] is None
    assert rendered["createdAt"] is None


def test_enum_prefixes_are_cut_and_times_end_with_z() -> None:
    rendered = render.to_dict(make_issued())
    assert rendered["status"] == "AVAILABLE"
    assert rendered["issuedAt"] == "2026-05-01T09:00:00.120Z"
    assert render.to_dict(timesale_pb2.TimeSale(status=timesale_pb2.TIME_SALE_STATUS_SOLD_OUT))["status"] == "SOLD_OUT"


def test_an_optional_zero_is_written_and_is_no_null() -> None:
    assert render.to_dict(timesale_events_pb2.OrderCreated())["holdId"] is None
    assert render.to_dict(timesale_events_pb2.OrderCreated(hold_id=0))["holdId"] == "0"


def test_lists_are_lists() -> None:
    history = point_pb2.GetHistoryResponse(points=[point_pb2.Transaction(id=5)], total=1)
    assert render.to_dict(history)["points"][0]["id"] == "5"


def test_json_text_is_the_same_object() -> None:
    assert orjson.loads(render.to_json(make_issued())) == render.to_dict(make_issued())


@pytest.mark.parametrize("message", [make_issued(), point_pb2.GetHistoryResponse(points=[])])
def test_what_was_rendered_can_be_read_back(message: Message) -> None:
    assert render.from_dict(render.to_dict(message), type(message)) == message


def test_unknown_fields_are_ignored_and_ids_may_be_numbers() -> None:
    rendered = {**render.to_dict(make_issued()), "addedLater": {"a": 1}, "id": 31}
    assert render.from_dict(rendered, coupon_events_pb2.CouponIssued) == make_issued()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"id": 2**63},
        {"id": True},
        {"id": 1.5},
        {"userId": 7},
        {"userId": None},
        {"status": "NOPE"},
        {"status": 1},
        {"issuedAt": "yesterday"},
        {"issuedAt": 5},
        {"policy": None},
        {"policy": []},
    ],
    ids=repr,
)
def test_a_value_of_another_sort_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        render.from_dict({**render.to_dict(make_issued()), **change}, coupon_events_pb2.CouponIssued)


def test_a_missing_field_is_refused_unless_it_is_optional() -> None:
    rendered = render.to_dict(make_issued())
    del rendered["orderId"]
    assert render.from_dict(rendered, coupon_events_pb2.CouponIssued) == make_issued()
    del rendered["userId"]
    with pytest.raises(ValueError, match="userId: missing"):
        render.from_dict(rendered, coupon_events_pb2.CouponIssued)
