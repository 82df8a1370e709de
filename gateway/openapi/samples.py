"""Examples for the document: one value for each field's name, so that all examples tell the same story."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from infra.errors import Fact, Kind, Refused, ValidationFailed

TIME = "2026-05-01T09:00:00Z"
LATER = "2026-06-01T00:00:00Z"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"

DESCRIPTION = """\
Coupons, points and time sales behind one gateway.

Ids are 64-bit integers written as decimal text; both text and numbers are accepted. Money and points are integers in
the smallest unit, up to 2^53-1. Times are RFC 3339 in UTC. Unknown body fields are refused. Errors are RFC 9457 problem
documents with a stable `code`. Every POST and DELETE except `/auth/*` takes an `Idempotency-Key`: repeating a request
with the same key has one effect and gives the same answer, for 7 days.
"""

FIELDS: Final[Mapping[str, Any]] = {
    "amount": 50,
    "balance": 150,
    "balance_snapshot": 150,
    "bonus_points": 50,
    "coupon_policy_id": "7",
    "created_at": TIME,
    "description": "10 % off everything",
    "discount_price": 7000,
    "discount_value": 10,
    "end_at": LATER,
    "end_time": LATER,
    "expiration_time": LATER,
    "id": "42",
    "issued_at": TIME,
    "issued_quantity": 17,
    "maximum_discount_amount": 5000,
    "minimum_order_amount": 10000,
    "name": "Headphones",
    "page": 0,
    "per_user_limit": 1,
    "price": 10000,
    "product_id": "3",
    "quantity": 2,
    "queue_number": 17,
    "remaining_quantity": 1,
    "reward_points": 5,
    "size": 10,
    "sold_quantity": 1,
    "start_at": TIME,
    "start_time": TIME,
    "time_sale_id": "42",
    "title": "Spring sale",
    "total": 1,
    "total_price": 14000,
    "total_quantity": 1000,
    "unit_price": 7000,
    "user_id": "u-1",
}
WORDS: Final[Mapping[str, str]] = {
    "CouponStatus": "AVAILABLE",
    "DiscountType": "PERCENTAGE",
    "OrderStatus": "COMPLETED",
    "PolicyStatus": "ACTIVE",
    "TimeSaleStatus": "ACTIVE",
    "TransactionType": "EARNED",
}
REFUSED: Final[Mapping[str, Mapping[str, Fact]]] = {
    "ALREADY_ISSUED": {"coupon_id": "31"},
    "INSUFFICIENT_POINTS": {"available": 5, "requested": 9, "missing": 4},
    "INSUFFICIENT_STOCK": {"available": 2, "requested": 3, "missing": 1},
    "MINIMUM_ORDER_AMOUNT": {"available": 9000, "requested": 10000, "missing": 1000},
    "NOT_ACTIVE": {"retry_at": datetime(2026, 5, 1, 9, tzinfo=UTC)},
    "NOT_FOUND": {"resource": "Coupon policy", "id": 7},
    "SOLD_OUT": {"available": 0, "requested": 1, "missing": 1},
    "USER_LIMIT": {"available": 0, "requested": 1, "missing": 1},
    "WOULD_GO_NEGATIVE": {"available": 5, "requested": 9, "missing": 4},
}


def of_message(descriptor: Descriptor) -> dict[str, Any]:
    """A message as the renderer might write it."""
    return {field.json_name: _of_field(field) for field in descriptor.fields}


def refusal(code: str) -> Refused:
    """A refusal of this code, with facts."""
    if code == ValidationFailed.code:
        return ValidationFailed({"quantity": "must be a whole number from 1 to 1000000000"})
    facts = dict(REFUSED.get(code, {}))
    if code in {"RATE_LIMITED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}:
        facts["retry_at"] = datetime(2026, 5, 1, 9, 0, 1, tzinfo=UTC)
    return Refused.of(Kind.STATE, code, facts)


def _of_field(field: FieldDescriptor) -> Any:
    if field.name in FIELDS:
        return FIELDS[field.name]
    if field.enum_type is not None:
        return WORDS[field.enum_type.name]
    if field.containing_oneof is not None:  # `optional`: absent is null
        return None
    if field.message_type is None:
        return 0
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return TIME
    return [of_message(field.message_type)] if field.is_repeated else of_message(field.message_type)
