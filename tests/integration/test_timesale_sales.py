"""Products and sales: setting up, reading, and their states by the database's clock."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.errors import ValidationFailed
from protos.caller.v1 import caller_pb2
from protos.timesale.v1 import timesale_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import ADMIN, SHOP, fingerprint_of, key, refused, rows, user
from tests.fixtures.databases import INFRA, TIMESALE, set_clock
from tests.fixtures.timesales import Worker, running_worker, sale_request, topics

NINE = datetime(2030, 5, 1, 9, tzinfo=UTC)


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> str:
    return await make_database(INFRA, TIMESALE)


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(database_url, redis_url) as running:
        yield running


async def at(database_url: str, time: str) -> None:
    """Sets the database's clock to a time of the day."""
    await set_clock(database_url, f"timestamptz '2030-05-01T{time}Z'")


def product_request(command_id: str, **changes: Any) -> pb.CreateProductRequest:
    fields = {"name": "Mug", "price": 10_000, "description": "blue", **changes}
    return pb.CreateProductRequest(
        **{"caller": ADMIN, "command_id": command_id, "fingerprint": fingerprint_of(fields), **fields}
    )


async def test_a_product_is_made_and_read(worker: Worker) -> None:
    made = (await worker.client.call("CreateProduct", product_request(key("p")))).message
    assert (made.name, made.price, made.description) == ("Mug", 10_000, "blue")
    read = await worker.client.call("GetProduct", pb.GetProductRequest(caller=user("u-1"), product_id=made.id))
    assert read.message == made
    missing = pb.GetProductRequest(caller=user("u-1"), product_id=made.id + 1)
    refusal = await refused(worker.client.call("GetProduct", missing))
    assert (refusal.code, refusal.facts) == ("NOT_FOUND", {"resource": "Product", "id": str(made.id + 1)})


async def test_products_come_newest_first_in_pages(worker: Worker) -> None:
    ids = [(await worker.client.make_product()).id for _ in range(3)]
    request = pb.ListProductsRequest(caller=user("u-1"), page=0, size=2)
    page = (await worker.client.call("ListProducts", request)).message
    assert [product.id for product in page.products] == [ids[2], ids[1]]
    assert (page.total, page.page, page.size) == (3, 0, 2)


@pytest.mark.parametrize("method", ["CreateProduct", "CreateTimeSale"])
async def test_parallel_repeats_of_a_setup_have_one_effect(worker: Worker, database_url: str, method: str) -> None:
    product = await worker.client.make_product()
    request = product_request(key("k")) if method == "CreateProduct" else sale_request(product.id, command_id=key("k"))
    replies = await asyncio.gather(*(worker.client.call(method, request) for _ in range(8)))
    assert len({reply.message.SerializeToString() for reply in replies}) == 1
    assert sum(not reply.replayed for reply in replies) == 1
    await rows(database_url, "DELETE FROM commands")
    again = await worker.client.call(method, request)
    assert again.replayed
    assert again.message.id == replies[0].message.id
    assert len(await rows(database_url, "SELECT FROM outbox WHERE topic = 'timesale.created'")) == int(
        method == "CreateTimeSale"
    )


async def test_another_body_under_the_key_of_a_setup_is_refused(worker: Worker) -> None:
    product = await worker.client.make_product()
    await worker.client.call("CreateTimeSale", sale_request(product.id, command_id=key("k")))
    for method, request in (
        ("CreateTimeSale", sale_request(product.id, 7, command_id=key("k"))),
        ("CreateProduct", product_request(key("k"))),
    ):
        assert (await refused(worker.client.call(method, request))).code == "IDEMPOTENCY_KEY_REUSED"


@pytest.mark.parametrize("caller", [user("u-1"), SHOP])
async def test_only_admins_set_up_products_and_sales(worker: Worker, caller: caller_pb2.Caller) -> None:
    product = await worker.client.make_product()
    for method, request in (
        ("CreateProduct", product_request(key("p"), caller=caller)),
        ("CreateTimeSale", sale_request(product.id, caller=caller)),
    ):
        assert (await refused(worker.client.call(method, request))).code == "FORBIDDEN"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": 10**9 + 1}, "quantity"),
        ({"discount_price": 10_001}, "discountPrice"),
        ({"discount_price": -1}, "discountPrice"),
        ({"end_at": NINE}, "endAt"),
        ({"limit": 0}, "perUserLimit"),
        ({"reward_points": 101}, "rewardPoints"),
    ],
)
async def test_a_sale_out_of_range_is_refused_by_field(worker: Worker, changes: dict[str, Any], field: str) -> None:
    product = await worker.client.make_product(price=10_000)
    request = sale_request(product.id, **{"quantity": 1, "start_at": NINE, **changes})
    refusal = await refused(worker.client.call("CreateTimeSale", request))
    assert isinstance(refusal, ValidationFailed)
    assert set(refusal.fields) == {field}


async def test_a_sale_without_its_times_or_its_product_is_refused(worker: Worker) -> None:
    request = sale_request(1)
    request.ClearField("start_at")
    refusal = await refused(worker.client.call("CreateTimeSale", request))
    assert isinstance(refusal, ValidationFailed)
    assert set(refusal.fields) == {"startAt"}
    request = sale_request(1)
    request.end_at.seconds = 10**12
    refusal = await refused(worker.client.call("CreateTimeSale", request))
    assert isinstance(refusal, ValidationFailed)
    assert set(refusal.fields) == {"endAt"}
    refusal = await refused(worker.client.call("CreateTimeSale", sale_request(404)))
    assert (refusal.code, refusal.facts) == ("NOT_FOUND", {"resource": "Product", "id": "404"})


async def test_a_sale_is_shown_with_its_product(worker: Worker) -> None:
    product = await worker.client.make_product()
    sale = await worker.client.make_sale(5, product_id=product.id, limit=2, reward_points=7)
    assert sale.product == product
    assert (sale.quantity, sale.remaining_quantity, sale.per_user_limit, sale.reward_points) == (5, 5, 2, 7)
    assert await worker.client.get_sale(sale.id) == sale
    assert not (await worker.client.make_sale(5)).HasField("per_user_limit")
    refusal = await refused(worker.client.get_sale(404))
    assert (refusal.code, refusal.facts["resource"]) == ("NOT_FOUND", "Time sale")


@pytest.mark.parametrize(
    ("now", "status", "told"),
    [
        ("08:59:59.999999", "SCHEDULED", ["timesale.created"]),
        ("09:00:00", "ACTIVE", ["timesale.created", "timesale.started"]),
        ("09:59:59.999999", "ACTIVE", ["timesale.created", "timesale.started"]),
        ("10:00:00", "ENDED", ["timesale.created"]),
    ],
)
async def test_a_sale_is_born_in_the_state_of_the_databases_clock(
    worker: Worker, database_url: str, now: str, status: str, told: list[str]
) -> None:
    await at(database_url, now)
    sale = await worker.client.make_sale(start_at=NINE)
    assert pb.TimeSaleStatus.Name(sale.status) == f"TIME_SALE_STATUS_{status}"
    assert await topics(database_url, sale.id) == told
    (event,) = await rows(database_url, "SELECT payload FROM outbox WHERE topic = 'timesale.created'")
    payload = json.loads(event["payload"])
    assert (payload["id"], payload["timeSaleId"], payload["status"]) == (str(sale.id), str(sale.id), status)
    assert (payload["quantity"], payload["remainingQuantity"], payload["perUserLimit"]) == (100, 100, None)
    assert (payload["startAt"], payload["endAt"]) == ("2030-05-01T09:00:00Z", "2030-05-01T10:00:00Z")


async def test_a_sale_passes_its_states_and_tells_each_once(worker: Worker, database_url: str) -> None:
    await at(database_url, "08:00")
    sale = await worker.client.make_sale(1, start_at=NINE)

    async def read() -> tuple[str, str]:
        (stored,) = await rows(database_url, "SELECT status FROM sales")
        derived = pb.TimeSaleStatus.Name((await worker.client.get_sale(sale.id)).status)
        return stored["status"], derived.removeprefix("TIME_SALE_STATUS_")

    await worker.sweep.run()
    assert await read() == ("SCHEDULED", "SCHEDULED")
    await at(database_url, "09:00")
    assert await read() == ("SCHEDULED", "ACTIVE")
    await asyncio.gather(worker.sweep.run(), worker.sweep.move(sale.id), worker.sweep.move(sale.id))
    assert await read() == ("ACTIVE", "ACTIVE")
    await worker.client.order(sale.id)
    assert await read() == ("SOLD_OUT", "SOLD_OUT")
    await worker.sweep.run()
    await at(database_url, "10:00")
    assert await read() == ("SOLD_OUT", "ENDED")
    await asyncio.gather(*(worker.sweep.move(sale.id) for _ in range(5)))
    await worker.sweep.run()
    assert await read() == ("ENDED", "ENDED")
    assert await topics(database_url, sale.id) == [
        "timesale.created",
        "timesale.started",
        "timesale.soldout",
        "timesale.ended",
    ]


async def test_a_sweep_in_the_middle_of_a_rush_disturbs_nobody(worker: Worker, database_url: str) -> None:
    await at(database_url, "08:00")
    sale = await worker.client.make_sale(50, start_at=NINE)
    await at(database_url, "09:00")
    outcomes = await asyncio.gather(
        *(worker.client.order(sale.id, f"u-{number}") for number in range(80)),
        *(worker.sweep.move(sale.id) for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, BaseException) for outcome in outcomes) == 30
    told = await topics(database_url, sale.id)
    assert told == ["timesale.created", "timesale.started", "timesale.soldout"]


async def test_a_sale_that_cannot_be_locked_is_left_for_the_next_round(worker: Worker, database_url: str) -> None:
    await at(database_url, "08:00")
    stuck, free = [await worker.client.make_sale(start_at=NINE) for _ in range(2)]
    await at(database_url, "09:00")
    async with worker.database.transaction() as holder:
        await holder.execute("SELECT FROM sales WHERE id = $1 FOR UPDATE", stuck.id)
        await worker.sweep.run()
    assert await topics(database_url, free.id) == ["timesale.created", "timesale.started"]
    assert await topics(database_url, stuck.id) == ["timesale.created"]
    await worker.sweep.run()
    assert await topics(database_url, stuck.id) == ["timesale.created", "timesale.started"]


async def test_lists_filter_by_the_status_of_the_moment(worker: Worker, database_url: str) -> None:
    await at(database_url, "08:00")
    sales = {
        "SCHEDULED": await worker.client.make_sale(start_at=NINE + timedelta(hours=1)),
        "ACTIVE": await worker.client.make_sale(start_at=NINE),
        "SOLD_OUT": await worker.client.make_sale(1, start_at=NINE),
        "ENDED": await worker.client.make_sale(start_at=NINE - timedelta(hours=1)),
    }
    await at(database_url, "09:00")
    await worker.client.order(sales["SOLD_OUT"].id)

    async def page(**fields: Any) -> Any:
        request = pb.ListTimeSalesRequest(caller=user("u-1"), size=10, **fields)
        return (await worker.client.call("ListTimeSales", request)).message

    for status, sale in sales.items():
        value = pb.TimeSaleStatus.Value(f"TIME_SALE_STATUS_{status}")
        found = await page(status=value)
        assert [(each.id, each.status) for each in found.timesales] == [(sale.id, value)]
        assert found.total == 1
    everything = await page()
    assert [each.id for each in everything.timesales] == sorted((sale.id for sale in sales.values()), reverse=True)
    assert everything.total == 4
    assert (await refused(page(status=pb.TIME_SALE_STATUS_UNSPECIFIED))).code == "VALIDATION_FAILED"
    assert (await refused(page(page=-1))).code == "VALIDATION_FAILED"
