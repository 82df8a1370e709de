"""The page of SQL against the rules, the schema against its own way back, plans that do not grow with the tables."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from coupon.rules import Coupon, CouponStatus, DiscountType, Terms, seen_at
from infra.postgres import load_queries
from tests.conftest import MakeDatabase
from tests.fixtures.databases import COUPON, INFRA

SQL = load_queries(Path(__file__).parents[2] / "coupon/sql/queries.sql")
NOW = datetime(2030, 5, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
REQUESTS = (
    *("lock_policies", "read_claim_facts", "read_refusal_facts", "insert_coupons", "update_policies"),
    *("lock_coupon", "update_coupons", "read_coupons", "list_user_coupons", "count_user_coupons"),
)


@pytest.fixture
async def conn(make_database: MakeDatabase) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(await make_database(INFRA, COUPON))
    await opened.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=orjson.loads)
    await opened.execute(
        "INSERT INTO policies (title, description, total_quantity, start_time, end_time, discount_type, discount_value,"
        " minimum_order_amount, created_at, per_user_limit, bonus_points, command_id)"
        " VALUES ('Spring', '', 100000, '2030-01-01Z', '2030-05-01T09:00Z', 'PERCENTAGE', 10, 0, '2030-01-01Z', 1, 0,"
        " gen_random_uuid())"
    )
    yield opened
    await opened.close()


async def insert_coupons(conn: Any, count: int, *, status: str = "AVAILABLE", expiration_time: datetime = NOW) -> None:
    await conn.execute(
        """INSERT INTO coupons (user_id, status, expiration_time, issued_at, coupon_policy_id, order_amount,
             discount_amount, used_at, canceled_at, expired_at, user_seq, user_limit, command_id)
           SELECT 'u-' || number, given.status, given.at, given.at, 1, amount, amount, used,
             CASE WHEN given.status = 'CANCELED' THEN given.at END,
             CASE WHEN given.status = 'EXPIRED' THEN given.at END, 1, 1, gen_random_uuid()
           FROM (SELECT $2::text AS status, $3::timestamptz AS at) AS given
           CROSS JOIN generate_series(1, $1) AS number
           LEFT JOIN (VALUES (1, timestamptz '2030-04-01Z')) AS once (amount, used)
             ON given.status IN ('USED', 'CANCELED')""",
        count,
        status,
        expiration_time,
    )


async def test_the_migration_can_be_taken_back(make_database: MakeDatabase) -> None:
    conn = await asyncpg.connect(await make_database(INFRA, COUPON))
    try:
        for path in sorted(COUPON.glob("*.sql"), reverse=True):
            await conn.execute(path.read_text(encoding="utf-8").split("-- migrate:down")[1])
        left = await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {row["tablename"] for row in left}.isdisjoint({"policies", "coupons"})
    finally:
        await conn.close()


@pytest.mark.parametrize("status", CouponStatus)
@pytest.mark.parametrize("end", [NOW - HOUR, NOW, NOW + HOUR])
async def test_lists_filter_by_the_status_that_the_rules_say(conn: Any, status: CouponStatus, end: datetime) -> None:
    await insert_coupons(conn, 1, status=status, expiration_time=end)
    query = SQL["count_user_coupons"].text
    found = {each for each in CouponStatus if await conn.fetchval(query, "u-1", NOW, each)}
    coupon = Coupon(id=1, user_id="u-1", status=status, expiration_time=end, issued_at=NOW, user_seq=1, terms=TERMS)
    assert found == {seen_at(coupon, NOW).status}


TERMS = Terms(
    id=1,
    title="Spring",
    description="",
    total_quantity=1,
    start_time=NOW,
    end_time=NOW + HOUR,
    discount_type=DiscountType.PERCENTAGE,
    discount_value=10,
    minimum_order_amount=0,
    maximum_discount_amount=None,
    per_user_limit=1,
    bonus_points=0,
    created_at=NOW,
)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_no_statement_of_a_request_reads_a_whole_table(conn: Any, analyzed: bool) -> None:
    """Generic plans, also before anybody has counted the rows."""
    await insert_coupons(conn, 5_000)
    if analyzed:
        await conn.execute("ANALYZE")
    await conn.execute("SET plan_cache_mode = force_generic_plan")
    scanned = {name: await tables_scanned(conn, name) for name in REQUESTS}
    assert {name: tables for name, tables in scanned.items() if "coupons" in tables} == {}


async def tables_scanned(conn: Any, name: str) -> set[str]:
    """Tables a query reads from end to end, whatever it is asked."""
    text = SQL[name].text
    count = max(int(number) for number in re.findall(r"\$(\d)", text))
    await conn.execute(f"PREPARE asked AS {text}")
    plan = await conn.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked ({', '.join(['NULL'] * count)})")
    await conn.execute("DEALLOCATE asked")
    return set(_scans(plan[0]["Plan"]))


def _scans(node: dict[str, Any]) -> list[str]:
    mine = [node["Relation Name"]] if node["Node Type"] == "Seq Scan" else []
    return mine + [table for each in node.get("Plans", []) for table in _scans(each)]
