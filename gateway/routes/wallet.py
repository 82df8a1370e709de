"""What a user has: one answer, asked of the three workers at the same time."""

import asyncio
from typing import Any

import orjson
from google.protobuf.message import Message

from gateway.clients import COUPON, POINT, TIMESALE, Service
from gateway.door import Answer
from gateway.endpoint import Ask, Gateway
from gateway.fields import PAGE_SIZE_MAX, Nothing
from infra import render, telemetry
from infra.errors import Kind, Refused, Unavailable
from protos.coupon.v1 import coupon_pb2
from protos.point.v1 import point_pb2
from protos.timesale.v1 import timesale_pb2

ORDERS_MAX = 10

_AWAY = frozenset({Kind.UNAVAILABLE, Kind.OVERLOADED, Kind.DEADLINE})


async def show(ask: Ask[Nothing], gateway: Gateway) -> Answer:
    """Read a user's usable coupons, balance and recent orders in one answer.

    A worker that is away, or slower than `wallet_part_seconds`, leaves its part null and its name in `unavailable`.
    """
    whose: Any = {"caller": ask.caller_message(), "user_id": ask.user_id}
    usable = coupon_pb2.GetUserCouponsRequest(
        **whose, status=coupon_pb2.COUPON_STATUS_AVAILABLE, page=0, size=PAGE_SIZE_MAX
    )
    recent = timesale_pb2.GetUserOrdersRequest(**whose, page=0, size=ORDERS_MAX)
    questions = {
        "coupons": (COUPON, "GetUserCoupons", usable),
        "balance": (POINT, "GetBalance", point_pb2.GetBalanceRequest(**whose)),
        "orders": (TIMESALE, "GetUserOrders", recent),
    }
    async with asyncio.TaskGroup() as tasks:
        asked = {name: tasks.create_task(_part(gateway, name, *each)) for name, each in questions.items()}
    parts = {name: task.result() for name, task in asked.items()}
    for part in parts.values():
        if isinstance(part, Refused) and part.kind not in _AWAY:
            raise part
    away = [questions[name][0].name for name, part in parts.items() if isinstance(part, Refused)]
    if len(away) == len(parts):
        raise Unavailable()
    telemetry.add_span_attributes({"promo.partial": bool(away)})
    shown = {name: None if isinstance(part, Refused) else part for name, part in parts.items()}
    return Answer(orjson.dumps({"userId": ask.user_id, **shown, "partial": bool(away), "unavailable": away}))


async def _part(gateway: Gateway, name: str, service: Service, verb: str, question: Message) -> Any:
    """One worker's part, or its refusal: a value, so that it does not end the other parts."""
    deadline = asyncio.get_running_loop().time() + gateway.settings.wallet_part_seconds
    try:
        reply = await gateway.clients.call(service, verb, question, deadline=deadline)
    except Refused as refusal:
        return refusal
    return render.to_dict(reply.message)[name]
