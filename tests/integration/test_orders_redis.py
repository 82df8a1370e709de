"""Redis may be empty, stale, odd, slow or gone: orders get the right answers, only slower."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from infra import telemetry
from infra.caller import Caller, Command, Role
from infra.local.ports import free_ports
from infra.postgres import Conn
from tests.conftest import MakeDatabase
from tests.fixtures.calls import key, refused
from tests.fixtures.databases import INFRA, TIMESALE
from tests.fixtures.timesales import Worker, running_worker
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> str:
    return await make_database(INFRA, TIMESALE)


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(database_url, redis_url) as running:
        yield running


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator["Redis"]:
    async with Redis.from_url(redis_url, protocol=2, decode_responses=True) as redis:
        yield redis


def view_of(sale_id: int) -> str:
    return f"timesale:inventory:{sale_id}"


async def test_the_view_follows_each_commit_for_a_second(worker: Worker, cache: "Redis") -> None:
    sale = await worker.client.make_sale(10)
    await worker.client.order(sale.id, "u-1", 3)
    await eventually(lambda: cache.exists(view_of(sale.id)))
    assert await cache.hgetall(view_of(sale.id)) == {"units": "7", "version": "1"}
    assert 0 < await cache.pttl(view_of(sale.id)) <= 1_000


async def test_a_sold_out_sale_is_refused_without_a_transaction(worker: Worker, cache: "Redis", spans: Spans) -> None:
    sale = await worker.client.make_sale(1)
    await worker.client.order(sale.id)
    await eventually(lambda: cache.exists(view_of(sale.id)))
    spans.exporter.clear()
    assert (await refused(worker.client.order(sale.id, "u-2"))).code == "SOLD_OUT"
    named = spans.names()
    assert "batch timesale.refusal" in named
    assert "BEGIN" not in named


async def test_waiting_early_noes_share_one_read(worker: Worker, cache: "Redis", spans: Spans) -> None:
    sale = await worker.client.make_sale(1)
    await worker.client.order(sale.id)
    await eventually(lambda: cache.exists(view_of(sale.id)))
    spans.exporter.clear()
    deadline = asyncio.get_running_loop().time() + 5
    with telemetry.root("rush"):
        answers = await asyncio.gather(
            *(
                refused(
                    worker.orders.place(
                        command=Command(Caller(f"u-{number}", Role.USER), uuid4(), b""),
                        time_sale_id=sale.id,
                        user_id=f"u-{number}",
                        quantity=1,
                        deadline=deadline,
                    )
                )
                for number in range(100)
            )
        )
    assert {answer.code for answer in answers} == {"SOLD_OUT"}
    assert len(spans.named("SELECT sales")) < 25


@pytest.mark.parametrize(
    "lie",
    [
        {"units": "0", "version": "0"},
        {"units": "0", "version": "999999"},
        {"units": "-5", "version": "1"},
        {"units": "none", "version": "x"},
        {"units": ""},
        {"other": "1"},
    ],
)
async def test_a_view_that_lies_refuses_no_unit_that_exists(
    worker: Worker, cache: "Redis", lie: dict[str, str]
) -> None:
    sale = await worker.client.make_sale(3)
    for number in range(1, 4):
        await cache.delete(view_of(sale.id))
        await cache.hset(view_of(sale.id), mapping=lie)  # type: ignore[arg-type]  # a text is a field
        assert (await worker.client.order(sale.id)).message.queue_number == number
    assert (await refused(worker.client.order(sale.id))).code == "SOLD_OUT"


async def test_a_view_that_promises_too_much_sells_nothing_twice(worker: Worker, cache: "Redis") -> None:
    sale = await worker.client.make_sale(1)
    await cache.hset(view_of(sale.id), mapping={"units": "50", "version": "999999"})
    await worker.client.order(sale.id)
    await cache.hset(view_of(sale.id), mapping={"units": "50", "version": "999999"})
    assert (await refused(worker.client.order(sale.id, "u-2"))).code == "SOLD_OUT"


async def test_a_view_of_another_type_is_looked_past_and_replaced(worker: Worker, cache: "Redis") -> None:
    sale = await worker.client.make_sale(2)
    await cache.lpush(view_of(sale.id), "0")
    await worker.client.order(sale.id)

    async def replaced() -> bool:
        return await cache.type(view_of(sale.id)) == "hash"

    await eventually(replaced)


async def test_a_view_that_is_stale_after_units_came_back_is_overruled(
    worker: Worker, cache: "Redis", database_url: str
) -> None:
    sale = await worker.client.make_sale(1)
    await worker.client.order(sale.id)
    await eventually(lambda: cache.exists(view_of(sale.id)))
    async with worker.database.transaction() as conn:
        await add_units(conn, sale.id)
    assert (await worker.client.order(sale.id, "u-2")).message.queue_number == 2


async def add_units(conn: Conn, sale_id: int) -> None:
    await conn.execute(
        "UPDATE sales SET quantity = quantity + 1, remaining_quantity = remaining_quantity + 1 WHERE id = $1", sale_id
    )


async def test_a_flush_in_the_middle_changes_nothing(worker: Worker, cache: "Redis") -> None:
    sale = await worker.client.make_sale(40)

    async def flush() -> None:
        for _ in range(20):
            await cache.flushall()

    outcomes, _ = await asyncio.gather(
        asyncio.gather(*(worker.client.order(sale.id, f"u-{n}") for n in range(60)), return_exceptions=True), flush()
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 40


async def test_a_redis_that_hangs_costs_an_order_little(worker: Worker, cache: "Redis") -> None:
    sale = await worker.client.make_sale(2)
    await worker.client.order(sale.id)
    await cache.client_pause(1_500)
    async with asyncio.timeout(1.4):
        assert (await worker.client.order(sale.id, "u-2")).message.queue_number == 2
    await cache.client_unpause()
    assert (await refused(worker.client.order(sale.id, "u-3"))).code == "SOLD_OUT"


async def test_without_redis_orders_go_on(database_url: str) -> None:
    (port,) = free_ports(1)
    async with running_worker(database_url, f"redis://127.0.0.1:{port}/0") as worker:
        sale = await worker.client.make_sale(2)
        replies = [await worker.client.order(sale.id, command_id=key(f"k{n}")) for n in range(2)]
        assert [reply.message.queue_number for reply in replies] == [1, 2]
        assert (await refused(worker.client.order(sale.id))).code == "SOLD_OUT"
        assert (await worker.client.order(sale.id, command_id=key("k1"))).replayed
