"""Each invariant is quiet on sound data and names what a hand broke."""

from collections.abc import AsyncIterator

import pytest

from infra.invariants import check
from tests.conftest import MakeDatabase
from tests.fixtures.calls import rows
from tests.fixtures.databases import INFRA, TIMESALE
from tests.fixtures.timesales import Worker, running_worker
from timesale.invariants import INVARIANTS


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> str:
    return await make_database(INFRA, TIMESALE)


@pytest.fixture
async def worker(database_url: str, redis_url: str) -> AsyncIterator[Worker]:
    """A worker with two sales and some orders behind it."""
    async with running_worker(database_url, redis_url) as running:
        sales = [await running.client.make_sale(quantity, limit=3) for quantity in (2, 5)]
        await running.client.order(sales[0].id, "u-1", 2)
        await running.client.order(sales[1].id, "u-1", 1)
        await running.client.order(sales[1].id, "u-2", 2)
        yield running


async def test_sound_data_breaks_nothing(worker: Worker) -> None:
    assert await check(worker.database, INVARIANTS) == []


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        (
            "ALTER TABLE sales DROP CONSTRAINT sales_units_conserved; UPDATE sales SET quantity = quantity + 1",
            {"timesale_units_conserved"},
        ),
        (
            "UPDATE sales SET sold_quantity = sold_quantity - 1, remaining_quantity = remaining_quantity + 1",
            {"timesale_sold_matches_orders"},
        ),
        (
            "UPDATE orders SET quantity = quantity + 1 WHERE queue_number = 2",
            {"timesale_sold_matches_orders", "timesale_buyers_match_orders"},
        ),
        ("UPDATE buyers SET units = units - 1 WHERE units = 2", {"timesale_buyers_match_orders"}),
        ("DELETE FROM buyers WHERE units = 1", {"timesale_buyers_match_orders"}),
        ("UPDATE sales SET per_user_limit = 1", {"timesale_buyers_within_limit"}),
        ("UPDATE orders SET queue_number = 3 WHERE queue_number = 2", {"timesale_queue_numbers_without_gaps"}),
        ("UPDATE sales SET last_queue_number = last_queue_number + 1", {"timesale_queue_numbers_without_gaps"}),
        ("DELETE FROM outbox WHERE topic = 'order.created'", {"timesale_each_order_has_its_event"}),
        (
            "UPDATE outbox SET key = '999' WHERE topic = 'order.created' AND key = '1'",
            {"timesale_each_order_has_its_event"},
        ),
        ("DELETE FROM outbox WHERE topic = 'timesale.created'", {"timesale_each_sale_has_its_events"}),
        ("DELETE FROM outbox WHERE topic = 'timesale.soldout'", {"timesale_each_sale_has_its_events"}),
        ("DELETE FROM outbox WHERE topic = 'timesale.started'", {"timesale_each_sale_has_its_events"}),
        ("UPDATE sales SET status = 'ENDED'", {"timesale_each_sale_has_its_events"}),
        (
            "INSERT INTO outbox (event_id, topic, key, payload, headers, created_at) "
            "SELECT gen_random_uuid(), topic, key, payload, headers, created_at FROM outbox "
            "WHERE topic = 'order.created'",
            {"timesale_each_order_has_its_event"},
        ),
    ],
)
async def test_what_a_hand_broke_is_named(worker: Worker, database_url: str, damage: str, broken: set[str]) -> None:
    for statement in damage.split(";"):
        await rows(database_url, statement)
    assert {each.name for each in await check(worker.database, INVARIANTS)} == broken
