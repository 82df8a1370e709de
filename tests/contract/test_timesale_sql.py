"""The page of SQL against the rules, and the schema against its own way back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from infra.postgres import load_queries
from tests.conftest import MakeDatabase
from tests.fixtures.databases import INFRA, TIMESALE
from timesale.rules import Sale, SaleStatus, Stock, status_at

PAGE = Path(__file__).parents[2] / "timesale/sql/queries.sql"
NOW = datetime(2030, 5, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def test_the_migration_can_be_taken_back(make_database: MakeDatabase) -> None:
    conn = await asyncpg.connect(await make_database(INFRA, TIMESALE))
    try:
        for path in sorted(TIMESALE.glob("*.sql"), reverse=True):
            await conn.execute(path.read_text(encoding="utf-8").split("-- migrate:down")[1])
        left = await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {row["tablename"] for row in left} == {
            "commands",
            "outbox",
            "inbox",
            "dead_letters",
            "schema_migrations",
        }
    finally:
        await conn.close()


@pytest.mark.parametrize("start", [NOW - 2 * HOUR, NOW - HOUR, NOW, NOW + HOUR])
@pytest.mark.parametrize("remaining", [0, 1])
async def test_lists_filter_by_the_status_that_the_rules_say(
    make_database: MakeDatabase, start: datetime, remaining: int
) -> None:
    conn = await asyncpg.connect(await make_database(INFRA, TIMESALE))
    try:
        await conn.execute("INSERT INTO products VALUES (DEFAULT, 'Mug', 1, '', now(), gen_random_uuid())")
        await conn.execute(
            "INSERT INTO sales (product_id, quantity, remaining_quantity, sold_quantity, discount_price, start_at,"
            " end_at, status, created_at, reward_points, command_id)"
            " VALUES (1, 1, $1, 1 - $1, 1, $2, $3, 'SCHEDULED', now(), 0, gen_random_uuid())",
            remaining,
            start,
            start + HOUR,
        )
        query = load_queries(PAGE)["count_listings"].text
        found = {status for status in SaleStatus if await conn.fetchval(query, NOW, status)}
    finally:
        await conn.close()
    stock = Stock(remaining, 0, 1 - remaining, 1 - remaining, 0)
    sale = Sale(1, 1, 1, 1, start, start + HOUR, SaleStatus.SCHEDULED, NOW, None, 0, stock)
    assert found == {status_at(sale, NOW)}
