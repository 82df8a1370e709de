"""Every statement of every page is one Postgres takes, on the migrated database of its service."""

import re
from pathlib import Path

import asyncpg
import pytest

from infra.postgres import load_queries
from tests.conftest import MakeDatabase
from tests.fixtures.databases import COUPON, GATEWAY, INFRA, POINT, TIMESALE

SUMMARY = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|UPSERT) [a-z_]+( [a-z_]+)*")
ODD = re.compile(
    r"\bnow\s*\(|(clock|statement|transaction)_timestamp|current_(time|date)|localtime|select\s+\*", re.IGNORECASE
)
PAGES = {
    "infra": [INFRA],
    "coupon": [INFRA, COUPON],
    "point": [INFRA, POINT],
    "timesale": [INFRA, TIMESALE],
    "gateway": [GATEWAY],
}


def test_every_page_is_known_here(repository: Path) -> None:
    found = {path.parents[1].name for path in repository.glob("*/sql/queries.sql")}
    assert found == set(PAGES)


@pytest.mark.parametrize("service", PAGES)
async def test_every_statement_can_be_prepared(make_database: MakeDatabase, repository: Path, service: str) -> None:
    queries = load_queries(repository / service / "sql/queries.sql")
    conn = await asyncpg.connect(await make_database(*PAGES[service]))
    refused = {}
    try:
        for query in queries.values():
            try:
                await conn.prepare(query.text)
            except asyncpg.PostgresError as error:
                refused[query.name] = str(error)
    finally:
        await conn.close()
    assert refused == {}


@pytest.mark.parametrize("service", PAGES)
def test_every_summary_is_a_verb_and_tables(repository: Path, service: str) -> None:
    queries = load_queries(repository / service / "sql/queries.sql")
    assert [query.name for query in queries.values() if not SUMMARY.fullmatch(query.summary)] == []


@pytest.mark.parametrize("service", PAGES)
def test_no_statement_reads_another_clock_or_every_column(repository: Path, service: str) -> None:
    queries = load_queries(repository / service / "sql/queries.sql")
    texts = {query.name: query.text.replace("platform_now()", "") for query in queries.values()}
    assert [name for name, text in texts.items() if ODD.search(text)] == []
