"""Many buyers at once: nothing oversold, nothing stranded, queue numbers without gaps, limits kept."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from infra.errors import Refused
from infra.invariants import check
from tests.conftest import MakeDatabase
from tests.fixtures.calls import Reply, refused, rows
from tests.fixtures.databases import INFRA, TIMESALE, set_clock
from tests.fixtures.timesales import Worker, running_worker, topics
from tests.fixtures.waiting import eventually
from timesale import rules
from timesale.invariants import INVARIANTS

BUYERS = 256


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> str:
    return await make_database(INFRA, TIMESALE)


@pytest.fixture
async def workers(database_url: str, redis_url: str) -> AsyncIterator[list[Worker]]:
    """Two instances on one database."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_worker(database_url, redis_url)) for _ in range(2)]


async def rush(workers: list[Worker], sale_id: int, buyers: list[tuple[str, int]]) -> tuple[list[Reply], Counter[str]]:
    """Everybody at once, over all instances: the orders made, and the refusals by code."""
    outcomes = await asyncio.gather(
        *(
            workers[number % len(workers)].client.order(sale_id, user_id, quantity)
            for number, (user_id, quantity) in enumerate(buyers)
        ),
        return_exceptions=True,
    )
    bugs = [outcome for outcome in outcomes if isinstance(outcome, BaseException) and not isinstance(outcome, Refused)]
    assert bugs == []
    made = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
    return made, Counter(outcome.code for outcome in outcomes if isinstance(outcome, Refused))


@pytest.mark.parametrize("stock", [1, 7, 100])
async def test_a_rush_sells_exactly_the_stock(workers: list[Worker], database_url: str, stock: int) -> None:
    sale = await workers[0].client.make_sale(stock)
    made, refusals = await rush(workers, sale.id, [(f"u-{number}", 1) for number in range(BUYERS)])
    assert len(made) == stock
    assert refusals == {"SOLD_OUT": BUYERS - stock}
    assert sorted(reply.message.queue_number for reply in made) == list(range(1, stock + 1))
    after = await workers[1].client.get_sale(sale.id)
    assert (after.remaining_quantity, after.sold_quantity) == (0, stock)
    assert await topics(database_url, sale.id) == ["timesale.created", "timesale.started", "timesale.soldout"]
    assert await check(workers[0].database, INVARIANTS) == []


async def test_buyers_of_several_units_leave_nothing_that_fits(workers: list[Worker]) -> None:
    sale = await workers[0].client.make_sale(100)
    made, refusals = await rush(workers, sale.id, [(f"u-{number}", 1 + number % 3) for number in range(BUYERS)])
    assert sum(reply.message.quantity for reply in made) == 100
    assert set(refusals) <= {"SOLD_OUT", "INSUFFICIENT_STOCK"}
    assert await check(workers[0].database, INVARIANTS) == []


async def test_the_limit_per_user_holds_in_a_race(workers: list[Worker]) -> None:
    sale = await workers[0].client.make_sale(1_000, limit=5)
    made, refusals = await rush(
        workers, sale.id, [(f"u-{number % 8}", 1 + number // 8 % 2) for number in range(BUYERS)]
    )
    units: Counter[str] = Counter()
    for reply in made:
        units[reply.message.user_id] += reply.message.quantity
    assert set(units.values()) == {5}
    assert len(units) == 8
    assert set(refusals) == {"USER_LIMIT"}
    assert await check(workers[0].database, INVARIANTS) == []


async def test_sales_that_share_a_lane_do_not_mix(workers: list[Worker]) -> None:
    sales = [await workers[0].client.make_sale(7) for _ in range(8)]
    outcomes = await asyncio.gather(
        *(rush(workers, sale.id, [(f"u-{number}", 1) for number in range(16)]) for sale in sales)
    )
    assert [len(made) for made, _ in outcomes] == [7] * 8
    assert await check(workers[0].database, INVARIANTS) == []


async def locked(conn: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Does somebody wait for a row lock?"""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await conn.fetchval(waiting))


async def test_the_clock_is_read_after_the_lock(workers: list[Worker], database_url: str) -> None:
    """An order that waited for the sale's row past the end is late, however early it came."""
    await set_clock(database_url, "timestamptz '2030-05-01T09:00:00Z'")
    start = datetime(2030, 5, 1, 8, tzinfo=UTC)
    sale = await workers[0].client.make_sale(start_at=start, end_at=start + timedelta(hours=2))
    holder, watcher = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        holding = holder.transaction()
        await holding.start()
        await holder.execute("SELECT FROM sales WHERE id = $1 FOR UPDATE", sale.id)
        waiting = asyncio.create_task(refused(workers[0].client.order(sale.id)))
        await eventually(lambda: locked(watcher))
        await set_clock(database_url, "timestamptz '2030-05-01T10:00:00Z'")
        await holding.rollback()  # it only locked: nothing makes Postgres look at the row again
        assert (await waiting).code == "NOT_ACTIVE"
    finally:
        await holder.close()
        await watcher.close()


async def test_what_a_buyer_has_is_counted_after_the_lock(workers: list[Worker], database_url: str) -> None:
    sale = await workers[0].client.make_sale(10, limit=1)
    holder, watcher = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        holding = holder.transaction()
        await holding.start()
        await holder.execute("SELECT FROM sales WHERE id = $1 FOR UPDATE", sale.id)
        waiting = asyncio.create_task(refused(workers[0].client.order(sale.id, "u-1")))
        await eventually(lambda: locked(watcher))
        await holder.execute("INSERT INTO buyers VALUES ($1, 'u-1', 1, 1)", sale.id)
        await holding.commit()
        refusal = await waiting
        assert refusal.code == "USER_LIMIT"
        assert refusal.facts["available"] == 0  # so it was the rule that counted; the constraint cannot say how many
    finally:
        await holder.close()
        await watcher.close()


async def test_a_stuck_sale_holds_up_no_other(workers: list[Worker], database_url: str) -> None:
    stuck, free = [await workers[0].client.make_sale() for _ in range(2)]
    holder = await asyncpg.connect(database_url)
    try:
        holding = holder.transaction()
        await holding.start()
        await holder.execute("SELECT FROM sales WHERE id = $1 FOR UPDATE", stuck.id)
        waiting = asyncio.create_task(workers[0].client.order(stuck.id))
        async with asyncio.timeout(1.0):
            for number in range(20):
                await workers[0].client.order(free.id, f"u-{number}")
        assert not waiting.done()
        await holding.rollback()
        assert (await waiting).message.queue_number == 1
    finally:
        await holder.close()


async def test_the_database_itself_refuses_to_oversell(workers: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rule that always says yes, the constraints answer, and they spoil nobody else's order."""
    sale = await workers[0].client.make_sale(3)
    monkeypatch.setattr(rules.selling, "order", always_yes)
    made, refusals = await rush(workers[:1], sale.id, [(f"u-{number}", 1) for number in range(20)])
    assert len(made) == 3
    assert refusals == {"SOLD_OUT": 17}


async def test_the_database_itself_keeps_the_limit(workers: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    sale = await workers[0].client.make_sale(50, limit=2)
    monkeypatch.setattr(rules.selling, "order", always_yes)
    made, refusals = await rush(workers[:1], sale.id, [("u-1", 1)] * 8 + [("u-2", 1)] * 2)
    assert Counter(reply.message.user_id for reply in made) == {"u-1": 2, "u-2": 2}
    assert refusals == {"USER_LIMIT": 6}


def always_yes(sale: rules.Sale, stock: rules.Stock, claim: rules.Claim, **facts: object) -> rules.Purchase:
    return rules.Purchase(claim, stock.last_queue_number + 1, 1, claim.quantity, 0)


async def test_a_crash_in_one_order_is_that_orders_alone(
    workers: list[Worker], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sale = await workers[0].client.make_sale(50)
    decide = rules.selling.order

    def crashing(*args: object, **facts: object) -> object:
        if args[2].user_id == "u-13":  # type: ignore[attr-defined]  # the claim
            raise RuntimeError("a bug")
        return decide(*args, **facts)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(rules.selling, "order", crashing)
    outcomes = await asyncio.gather(
        *(workers[0].client.order(sale.id, f"u-{number}") for number in range(20)), return_exceptions=True
    )
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)] == [13]
    assert len(await rows(database_url, "SELECT FROM orders")) == 19
