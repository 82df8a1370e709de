"""The invariants hold after everything a coupon can live through, and each names what was broken by hand."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from coupon.invariants import INVARIANTS
from infra import invariants
from tests.conftest import MakeDatabase
from tests.fixtures.calls import SHOP, rows
from tests.fixtures.coupons import Worker, issue_request, running_worker
from tests.fixtures.databases import COUPON, INFRA, set_clock


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url) as found:
        yield found


async def live_through_everything(worker: Worker) -> None:
    """Coupons used, canceled, found overdue by a use, and by the sweep."""
    policy = await worker.client.make_policy(limit=3)
    results = await worker.client.issue_many(issue_request(policy.id, f"u-{number % 5}") for number in range(15))
    used, canceled, overdue, *_ = sorted(result.coupon.id for result in results)
    await worker.client.use(used, caller=SHOP)
    await worker.client.use(canceled, caller=SHOP)
    await worker.client.cancel(canceled, caller=SHOP)
    await set_clock(worker.settings.database_url, "clock_timestamp() + interval '2 hours'")
    await asyncio.gather(worker.client.use(overdue, caller=SHOP), return_exceptions=True)
    await worker.expiry.run()


async def broken(worker: Worker) -> set[str]:
    return {each.name for each in await invariants.check(worker.database, INVARIANTS)}


async def test_they_hold_after_everything(worker: Worker) -> None:
    await live_through_everything(worker)
    assert await broken(worker) == set()


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("UPDATE policies SET issued_quantity = issued_quantity + 1", {"coupon_issued_matches_coupons"}),
        (
            "ALTER TABLE policies DROP CONSTRAINT policies_issued_within_total;"
            "UPDATE policies SET total_quantity = issued_quantity - 1",
            {"coupon_issued_matches_coupons"},
        ),
        ("UPDATE policies SET per_user_limit = 2", {"coupon_users_within_limit", "coupon_as_its_policy"}),
        (
            "ALTER TABLE coupons DROP CONSTRAINT coupons_user_limit;"
            "UPDATE coupons SET user_seq = 9 WHERE user_seq = 3 AND user_id = 'u-1'",
            {"coupon_user_seq_without_gaps"},
        ),
        ("UPDATE coupons SET expiration_time = expiration_time + interval '1 second'", {"coupon_as_its_policy"}),
        ("DELETE FROM outbox WHERE id = (SELECT min(id) FROM outbox)", {"coupon_each_issue_has_its_event"}),
        ("DELETE FROM outbox WHERE topic = 'coupon.used'", {"coupon_each_end_has_its_event"}),
        ("DELETE FROM outbox WHERE topic = 'coupon.canceled'", {"coupon_each_end_has_its_event"}),
        (
            "DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox WHERE topic = 'coupon.expired')",
            {"coupon_each_end_has_its_event"},
        ),
        (
            "UPDATE outbox SET key = '999999' WHERE topic = 'coupon.issued'",
            {"coupon_each_issue_has_its_event"},
        ),
        ("UPDATE outbox SET key = '999999' WHERE topic = 'coupon.used'", {"coupon_each_end_has_its_event"}),
    ],
)
async def test_what_is_broken_by_hand_is_named(worker: Worker, sql: str, names: set[str]) -> None:
    await live_through_everything(worker)
    for statement in sql.split(";"):
        await rows(worker.settings.database_url, statement)
    assert await broken(worker) == names
