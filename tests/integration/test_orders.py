"""Orders at the gRPC door: what is bought, what is refused and why, and what is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from infra.errors import ValidationFailed
from infra.telemetry import names
from protos.caller.v1 import caller_pb2
from protos.timesale.v1 import timesale_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import ADMIN, SHOP, key, refused, rows, user
from tests.fixtures.databases import INFRA, TIMESALE, set_clock
from tests.fixtures.timesales import Worker, order_request, running_worker, topics
from tests.fixtures.tracing import Spans

MONEY_MAX = 2**53 - 1


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> str:
    return await make_database(INFRA, TIMESALE)


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(database_url, redis_url) as running:
        yield running


async def test_an_order_sells_units_at_the_sales_price(worker: Worker, database_url: str) -> None:
    sale = await worker.client.make_sale(10, discount_price=7_000, reward_points=5)
    order = (await worker.client.order(sale.id, "u-1", 2)).message
    assert (order.time_sale_id, order.user_id, order.quantity, order.queue_number) == (sale.id, "u-1", 2, 1)
    assert (order.unit_price, order.total_price, order.reward_points) == (7_000, 14_000, 5)
    assert order.status == pb.ORDER_STATUS_COMPLETED
    assert not order.HasField("hold_id")
    after = await worker.client.get_sale(sale.id)
    assert (after.remaining_quantity, after.sold_quantity, after.held_quantity) == (8, 2, 0)
    read = await worker.client.call("GetOrder", pb.GetOrderRequest(caller=user("u-1"), order_id=order.id))
    assert read.message == order


async def test_an_order_is_told_once_with_the_fields_consumers_need(worker: Worker, database_url: str) -> None:
    sale = await worker.client.make_sale(10, discount_price=7_000, reward_points=5)
    order = (await worker.client.order(sale.id, "u-1", 2)).message
    (row,) = await rows(database_url, "SELECT key, payload, headers FROM outbox WHERE topic = 'order.created'")
    assert row["key"] == str(order.id)
    payload = json.loads(row["payload"])
    assert payload.pop("createdAt") == order.created_at.ToJsonString()
    assert payload == {
        "id": str(order.id),
        "orderId": str(order.id),
        "timeSaleId": str(sale.id),
        "userId": "u-1",
        "quantity": 2,
        "status": "COMPLETED",
        "queueNumber": 1,
        "unitPrice": 7_000,
        "totalPrice": 14_000,
        "rewardPoints": 5,
        "holdId": None,
    }


async def test_the_last_unit_is_sellable_and_sells_the_sale_out(worker: Worker, database_url: str) -> None:
    sale = await worker.client.make_sale(2)
    await worker.client.order(sale.id, "u-1", 2)
    assert (await worker.client.get_sale(sale.id)).status == pb.TIME_SALE_STATUS_SOLD_OUT
    assert await topics(database_url, sale.id) == ["timesale.created", "timesale.started", "timesale.soldout"]
    (told,) = await rows(database_url, "SELECT payload FROM outbox WHERE topic = 'timesale.soldout'")
    payload = json.loads(told["payload"])
    assert (payload["status"], payload["remainingQuantity"], payload["soldQuantity"]) == ("SOLD_OUT", 0, 2)


async def test_an_order_before_the_sweep_tells_that_the_sale_started(worker: Worker, database_url: str) -> None:
    start = datetime(2030, 5, 1, 9, tzinfo=UTC)
    sale = await worker.client.make_sale(1, start_at=start)
    await set_clock(database_url, "timestamptz '2030-05-01T09:00:00Z'")
    await worker.client.order(sale.id)
    assert await topics(database_url, sale.id) == ["timesale.created", "timesale.started", "timesale.soldout"]
    (told,) = await rows(database_url, "SELECT payload FROM outbox WHERE topic = 'timesale.started'")
    assert json.loads(told["payload"])["remainingQuantity"] == 1


# Refusals: each by its code, with its fields.


async def test_a_sold_out_sale_refuses_the_next_order(worker: Worker) -> None:
    sale = await worker.client.make_sale(1)
    await worker.client.order(sale.id)
    refusal = await refused(worker.client.order(sale.id, "u-2", 3))
    assert refusal.code == "SOLD_OUT"
    assert refusal.facts == {"available": 0, "requested": 3, "missing": 3}


async def test_fewer_units_than_asked_for_is_insufficient_stock(worker: Worker) -> None:
    sale = await worker.client.make_sale(2)
    refusal = await refused(worker.client.order(sale.id, "u-1", 3))
    assert refusal.code == "INSUFFICIENT_STOCK"
    assert refusal.facts == {"available": 2, "requested": 3, "missing": 1}
    assert (await worker.client.get_sale(sale.id)).remaining_quantity == 2


async def test_the_limit_per_user_counts_units(worker: Worker) -> None:
    sale = await worker.client.make_sale(10, limit=3)
    await worker.client.order(sale.id, "u-1", 2)
    refusal = await refused(worker.client.order(sale.id, "u-1", 2))
    assert refusal.code == "USER_LIMIT"
    assert refusal.facts == {"available": 1, "requested": 2, "missing": 1}
    await worker.client.order(sale.id, "u-1", 1)
    await worker.client.order(sale.id, "u-2", 3)


async def test_before_its_start_a_sale_says_when_to_retry(worker: Worker) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    sale = await worker.client.make_sale(start_at=start)
    refusal = await refused(worker.client.order(sale.id))
    assert refusal.code == "NOT_ACTIVE"
    assert refusal.facts == {"retry_at": start}


async def test_after_its_end_a_sale_is_not_active_and_there_is_nothing_to_retry(worker: Worker) -> None:
    sale = await worker.client.make_sale(start_at=datetime.now(UTC) - timedelta(hours=2))
    refusal = await refused(worker.client.order(sale.id))
    assert refusal.code == "NOT_ACTIVE"
    assert refusal.facts == {}


async def test_an_unknown_sale_is_not_found(worker: Worker) -> None:
    refusal = await refused(worker.client.order(404))
    assert refusal.code == "NOT_FOUND"
    assert refusal.facts == {"resource": "Time sale", "id": "404"}


async def test_a_total_price_above_what_json_holds_is_a_bad_request(worker: Worker) -> None:
    product = await worker.client.make_product(price=MONEY_MAX)
    sale = await worker.client.make_sale(10, product_id=product.id, discount_price=MONEY_MAX)
    refusal = await refused(worker.client.order(sale.id, "u-1", 2))
    assert isinstance(refusal, ValidationFailed)
    assert set(refusal.fields) == {"quantity"}
    assert (await worker.client.order(sale.id, "u-1", 1)).message.total_price == MONEY_MAX


@pytest.mark.parametrize(
    ("user_id", "quantity", "fields"), [("u-1", 0, {"quantity"}), ("u-1", -1, {"quantity"}), ("u 1", 1, {"userId"})]
)
async def test_odd_numbers_and_names_are_refused(worker: Worker, user_id: str, quantity: int, fields: set[str]) -> None:
    refusal = await refused(worker.client.order(1, user_id, quantity, caller=ADMIN))
    assert isinstance(refusal, ValidationFailed)
    assert set(refusal.fields) == fields


# Who may.


async def test_strangers_and_machines_may_not_order_but_admins_may(worker: Worker) -> None:
    sale = await worker.client.make_sale()
    for stranger in (user("u-2"), SHOP):
        assert (await refused(worker.client.order(sale.id, "u-1", caller=stranger))).code == "FORBIDDEN"
    assert (await worker.client.order(sale.id, "u-1", caller=ADMIN)).message.user_id == "u-1"
    nobody = caller_pb2.Caller(user_id="u-1")
    assert (await refused(worker.client.order(sale.id, "u-1", caller=nobody))).code == "UNAUTHENTICATED"


async def test_an_order_is_shown_to_its_buyer_to_admins_and_to_machines(worker: Worker) -> None:
    sale = await worker.client.make_sale()
    order = (await worker.client.order(sale.id)).message

    async def read(caller: caller_pb2.Caller) -> Any:
        return (await worker.client.call("GetOrder", pb.GetOrderRequest(caller=caller, order_id=order.id))).message

    for allowed in (user("u-1"), ADMIN, SHOP):
        assert await read(allowed) == order
    assert (await refused(read(user("u-2")))).code == "FORBIDDEN"
    missing = pb.GetOrderRequest(caller=user("u-2"), order_id=order.id + 1)
    refusal = await refused(worker.client.call("GetOrder", missing))
    assert (refusal.code, refusal.facts["resource"]) == ("NOT_FOUND", "Order")


async def test_a_users_orders_come_newest_first_in_pages(worker: Worker) -> None:
    sale = await worker.client.make_sale()
    ids = [(await worker.client.order(sale.id)).message.id for _ in range(3)]
    await worker.client.order(sale.id, "u-2")

    async def page(number: int, *, caller: caller_pb2.Caller = SHOP, size: int = 2) -> Any:
        request = pb.GetUserOrdersRequest(caller=caller, user_id="u-1", page=number, size=size)
        return (await worker.client.call("GetUserOrders", request)).message

    first, second = await page(0), await page(1)
    assert [order.id for order in first.orders] == [ids[2], ids[1]]
    assert [order.id for order in second.orders] == [ids[0]]
    assert (first.total, first.page, first.size) == (3, 0, 2)
    assert (await refused(page(0, caller=user("u-2")))).code == "FORBIDDEN"
    assert (await refused(page(0, size=101))).code == "VALIDATION_FAILED"
    assert (await refused(page(-1))).code == "VALIDATION_FAILED"


async def test_a_call_without_the_gateways_token_is_not_believed(worker: Worker) -> None:
    sale = await worker.client.make_sale()
    forged = worker.client.call("CreateOrder", order_request(sale.id), token="Bearer no")
    assert (await refused(forged)).code == "UNAUTHENTICATED"
    assert (await worker.client.get_sale(sale.id)).sold_quantity == 0


# The same demand again.


async def test_fifty_parallel_repeats_have_one_effect_and_one_answer(worker: Worker, database_url: str) -> None:
    sale = await worker.client.make_sale(100)
    replies = await asyncio.gather(*(worker.client.order(sale.id, command_id=key("k")) for _ in range(50)))
    assert len({reply.message.SerializeToString() for reply in replies}) == 1
    assert sum(not reply.replayed for reply in replies) == 1
    assert (await worker.client.get_sale(sale.id)).sold_quantity == 1
    assert len(await rows(database_url, "SELECT FROM outbox WHERE topic = 'order.created'")) == 1


async def test_another_body_under_the_same_key_is_refused(worker: Worker) -> None:
    sale, other = await worker.client.make_sale(), await worker.client.make_sale()
    await worker.client.order(sale.id, command_id=key("k"))
    for again in (
        worker.client.order(sale.id, "u-1", 2, command_id=key("k")),
        worker.client.order(other.id, command_id=key("k")),
    ):
        assert (await refused(again)).code == "IDEMPOTENCY_KEY_REUSED"


async def test_another_body_racing_on_another_sale_has_one_winner(worker: Worker) -> None:
    sales = [await worker.client.make_sale() for _ in range(2)]
    for round in range(10):
        outcomes = await asyncio.gather(
            *(worker.client.order(sale.id, command_id=key(f"k{round}")) for sale in sales), return_exceptions=True
        )
        refusals = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [getattr(refusal, "code", refusal) for refusal in refusals] == ["IDEMPOTENCY_KEY_REUSED"]
    sold = [(await worker.client.get_sale(sale.id)).sold_quantity for sale in sales]
    assert sum(sold) == 10


async def test_another_body_racing_on_the_same_sale_has_one_winner(worker: Worker) -> None:
    sale = await worker.client.make_sale()
    outcomes = await asyncio.gather(
        *(worker.client.order(sale.id, "u-1", 1 + number % 2, command_id=key("k")) for number in range(20)),
        return_exceptions=True,
    )
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, BaseException)]  # type: ignore[attr-defined]  # all are refusals
    assert codes == ["IDEMPOTENCY_KEY_REUSED"] * 10


async def test_an_order_is_answered_again_after_sold_out_and_after_the_end(worker: Worker, database_url: str) -> None:
    sale = await worker.client.make_sale(1)
    first = await worker.client.order(sale.id, command_id=key("k"))
    assert not first.replayed
    # The view now says sold out, so that this one also goes past the early no.
    after_sold_out = await worker.client.order(sale.id, command_id=key("k"))
    await set_clock(database_url, "clock_timestamp() + interval '2 hours'")
    after_the_end = await worker.client.order(sale.id, command_id=key("k"))
    for again in (after_sold_out, after_the_end):
        assert again.replayed
        assert again.message == first.message


async def test_a_refusal_that_can_turn_is_not_remembered(worker: Worker, database_url: str) -> None:
    start = datetime(2030, 5, 1, 9, tzinfo=UTC)
    sale = await worker.client.make_sale(start_at=start)
    assert (await refused(worker.client.order(sale.id, command_id=key("k")))).code == "NOT_ACTIVE"
    await set_clock(database_url, "timestamptz '2030-05-01T09:00:00Z'")
    reply = await worker.client.order(sale.id, "u-1", 2, command_id=key("k"))
    assert not reply.replayed


async def test_a_repeat_after_the_commands_were_purged_gets_the_order_as_it_is(
    worker: Worker, database_url: str
) -> None:
    sale = await worker.client.make_sale()
    first = await worker.client.order(sale.id, command_id=key("k"))
    await rows(database_url, "DELETE FROM commands")
    again = await worker.client.order(sale.id, command_id=key("k"))
    assert again.replayed
    assert again.message == first.message
    assert (await refused(worker.client.order(sale.id, "u-1", 2, command_id=key("k")))).code == "IDEMPOTENCY_KEY_REUSED"
    assert (await worker.client.get_sale(sale.id)).sold_quantity == 1


async def test_a_sold_out_sale_still_answers_a_winner_whose_command_was_purged(
    worker: Worker, database_url: str
) -> None:
    sale = await worker.client.make_sale(1)
    first = await worker.client.order(sale.id, command_id=key("k"))
    await rows(database_url, "DELETE FROM commands")
    for _ in range(3):  # through the batch, and through the gate's early no
        assert (await refused(worker.client.order(sale.id, "u-2"))).code == "SOLD_OUT"
        again = await worker.client.order(sale.id, command_id=key("k"))
        assert (again.message, again.replayed) == (first.message, True)


async def test_a_fingerprint_of_another_version_is_not_compared(worker: Worker) -> None:
    sale = await worker.client.make_sale()
    first = await worker.client.order(sale.id, command_id=key("k"))
    request = order_request(sale.id, command_id=key("k"))
    request.fingerprint = b"\x02" + request.fingerprint[1:]
    again = await worker.client.call("CreateOrder", request)
    assert again.replayed
    assert again.message == first.message


# Many at once in one call.


def item(request: pb.CreateOrderRequest, **changes: Any) -> pb.CreateOrderItem:
    return pb.CreateOrderItem(request=request, **{"request_id": uuid4().hex, "deadline_ms": 2_000, **changes})


async def test_the_items_of_a_batch_call_have_each_their_own_outcome(worker: Worker) -> None:
    sale = await worker.client.make_sale(3)
    await worker.client.order(sale.id, "u-9", command_id=key("k"))
    items = [
        item(order_request(sale.id, "u-1")),
        item(order_request(sale.id, "u-1", caller=user("u-2"))),
        item(order_request(sale.id, "u-9", command_id=key("k"))),
        item(order_request(sale.id, "u-2", 0)),
        item(order_request(sale.id, "u-3")),
        item(order_request(sale.id, "u-4")),
    ]
    response = (await worker.client.call("BatchCreateOrders", pb.BatchCreateOrdersRequest(items=items))).message
    words = [
        f"order {each.order.queue_number}{' again' if each.replayed else ''}"
        if each.WhichOneof("outcome") == "order"
        else each.status.message
        for each in response.results
    ]
    assert words[1:4] == ["FORBIDDEN", "order 1 again", "VALIDATION_FAILED"]
    # These three came at the same time: two of them get the two units that are left, whichever looks at the gate first.
    assert sorted([words[0], *words[4:]]) == ["SOLD_OUT", "order 2", "order 3"]


async def test_a_batch_call_takes_no_more_items_than_its_limit(worker: Worker) -> None:
    request = pb.BatchCreateOrdersRequest(items=[item(order_request(1))] * 257)
    assert (await refused(worker.client.call("BatchCreateOrders", request))).code == "VALIDATION_FAILED"


# What a trace shows.


async def test_a_sampled_order_shows_each_step_under_its_story(worker: Worker, spans: Spans) -> None:
    sale = await worker.client.make_sale()
    spans.exporter.clear()
    await worker.client.order(sale.id)
    (server,) = spans.named("promo.timesale.v1.TimeSaleService/CreateOrder")
    (story,) = spans.named("order.create")
    assert story.parent is not None
    assert server.context is not None
    assert story.parent.span_id == server.context.span_id
    assert [event.name for event in story.events] == ["order.created"]
    (batch,) = spans.named("batch timesale.sale")
    children = [span.name for span in spans.children_of(story)]
    assert "HMGET timesale:inventory" in children
    assert batch.name in children
    statements = [span.name for span in spans.children_of(batch)]
    assert [name for name in statements if "set_view" not in name] == [
        "BEGIN",
        "SELECT sales",
        "SELECT buyers",
        "SELECT commands",
        "INSERT orders",
        "INSERT commands",
        "INSERT outbox",
        "UPSERT buyers",
        "UPDATE sales",
        "COMMIT",
    ]
    insert = next(span for span in spans.named("INSERT orders"))
    assert (insert.attributes or {})[names.OPERATION] == "pg.query INSERT time_sale_order"


async def test_each_order_of_a_batch_is_told_under_its_own_request(
    worker: Worker, database_url: str, spans: Spans
) -> None:
    sale = await worker.client.make_sale(5)
    await asyncio.gather(*(worker.client.order(sale.id, f"u-{number}") for number in range(5)))
    stories = {f"{s.context.span_id:016x}" for s in spans.named("order.create") if s.context}
    told = await rows(
        database_url, "SELECT headers ->> 'traceparent' AS parent FROM outbox WHERE topic = 'order.created'"
    )
    assert {row["parent"].split("-")[2] for row in told} == stories
