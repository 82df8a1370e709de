"""Many claims at once, through gRPC: never one coupon too many, never one too few, whatever shares a batch."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import MakeDatabase
from tests.fixtures.calls import refused, rows
from tests.fixtures.coupons import Worker, codes, issue_request, running_worker, until_somebody_waits
from tests.fixtures.databases import COUPON, INFRA

CLAIMS = 256


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url) as found:
        yield found


async def stored(worker: Worker, policy_id: int) -> tuple[int, int]:
    """The policy's counter, and its coupons."""
    (row,) = await rows(
        worker.settings.database_url,
        "SELECT issued_quantity, (SELECT count(*) FROM coupons WHERE coupon_policy_id = $1) AS coupons"
        " FROM policies WHERE id = $1",
        policy_id,
    )
    return row["issued_quantity"], row["coupons"]


@pytest.mark.parametrize("stock", [1, 7, 100])
async def test_many_claims_at_once_take_exactly_the_stock(worker: Worker, stock: int) -> None:
    policy = await worker.client.make_policy(stock)
    outcomes = await codes(worker.client.issue(policy.id, f"u-{number}") for number in range(CLAIMS))
    assert Counter(outcomes) == {"OK": stock, "SOLD_OUT": CLAIMS - stock}
    assert await stored(worker, policy.id) == (stock, stock)


async def test_two_workers_on_one_database_take_exactly_the_stock(make_database: MakeDatabase, redis_url: str) -> None:
    url = await make_database(INFRA, COUPON)
    async with running_worker(url, redis_url) as one, running_worker(url, redis_url) as other:
        policy = await one.client.make_policy(50)
        workers = (one, other)
        outcomes = await codes(
            workers[number % 2].client.issue(policy.id, f"u-{number % 90}") for number in range(CLAIMS)
        )
        assert Counter(outcomes)["OK"] == 50
        assert await stored(one, policy.id) == (50, 50)


@pytest.mark.parametrize(("limit", "code"), [(1, "ALREADY_ISSUED"), (2, "USER_LIMIT")])
async def test_one_user_20_times_at_once_gets_the_limit(worker: Worker, limit: int, code: str) -> None:
    policy = await worker.client.make_policy(limit=limit)
    outcomes = await codes(worker.client.issue(policy.id, "u-1") for _ in range(20))
    assert Counter(outcomes) == {"OK": limit, code: 20 - limit}
    assert await stored(worker, policy.id) == (limit, limit)


async def test_the_same_user_twice_in_one_batch_counts_the_first(worker: Worker) -> None:
    policy = await worker.client.make_policy(limit=2)
    results = await worker.client.issue_many(issue_request(policy.id, f"u-{number % 10}") for number in range(60))
    issued = Counter(result.coupon.user_id for result in results if result.HasField("coupon"))
    assert issued == {f"u-{number}": 2 for number in range(10)}
    assert {result.status.message for result in results if result.HasField("status")} == {"USER_LIMIT"}


async def test_the_limit_is_counted_after_the_lock(worker: Worker) -> None:
    """Another transaction holds the row, issues to the same user and commits: who waited sees that coupon."""
    policy = await worker.client.make_policy()
    async with worker.database.transaction() as conn:
        await conn.fetch("SELECT id FROM policies WHERE id = $1 FOR UPDATE", policy.id)
        waiting = asyncio.create_task(refused(worker.client.issue(policy.id, "u-1")))
        await until_somebody_waits(worker)
        coupon_id = await conn.fetchval(
            "INSERT INTO coupons (user_id, status, expiration_time, issued_at, coupon_policy_id, user_seq, user_limit,"
            " command_id) SELECT 'u-1', 'AVAILABLE', end_time, platform_now(), id, 1, 1, gen_random_uuid()"
            " FROM policies WHERE id = $1 RETURNING id",
            policy.id,
        )
        await conn.execute("UPDATE policies SET issued_quantity = 1 WHERE id = $1", policy.id)
    refusal = await waiting
    assert (refusal.code, refusal.facts) == ("ALREADY_ISSUED", {"coupon_id": str(coupon_id)})
    assert await stored(worker, policy.id) == (1, 1)


async def test_the_clock_is_read_after_the_lock(worker: Worker) -> None:
    """The holder only locks and lets go past the end: a clock read before the wait would still issue."""
    end = datetime.now(UTC) + timedelta(seconds=0.8)
    policy = await worker.client.make_policy(end_time=end)
    async with worker.database.transaction() as conn:
        await conn.fetch("SELECT id FROM policies WHERE id = $1 FOR UPDATE", policy.id)
        await asyncio.sleep((end - datetime.now(UTC)).total_seconds() - 0.1)
        waiting = asyncio.create_task(refused(worker.client.issue(policy.id)))
        await until_somebody_waits(worker)
        await asyncio.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()))
    assert (await waiting).code == "NOT_ACTIVE"
    assert await stored(worker, policy.id) == (0, 0)


async def test_a_stuck_policy_holds_up_no_other(worker: Worker) -> None:
    stuck, free = await worker.client.make_policy(), await worker.client.make_policy()
    async with worker.database.transaction() as conn:
        await conn.fetch("SELECT id FROM policies WHERE id = $1 FOR UPDATE", stuck.id)
        waiting = [
            asyncio.create_task(refused(worker.client.call("IssueCoupon", issue_request(stuck.id, "u-1"), seconds=1.0)))
            for _ in range(5)
        ]
        await until_somebody_waits(worker)
        outcomes = await codes(worker.client.issue(free.id, f"u-{number}") for number in range(50))
        assert outcomes == ["OK"] * 50
        assert not any(task.done() for task in waiting)
        assert {(await task).code for task in waiting} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert (await worker.client.issue(stuck.id, "u-2")).message.user_id == "u-2"


async def test_a_violation_that_slips_through_is_the_refusal_its_constraint_stands_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rules that always say yes, the database says no, and of a batch only to whom it must."""
    from coupon import rules

    def always(policy: rules.Policy, left: int, owned: object, ids: object, claim: rules.Claim, at: datetime) -> object:
        return issue(policy, 1, None, ids, claim, at)  # type: ignore[arg-type]  # as they came

    issue = rules.issuing.issue
    single, double, gone = (
        await worker.client.make_policy(),
        await worker.client.make_policy(limit=2),
        await worker.client.make_policy(1),
    )
    await worker.client.issue(single.id, "u-1")
    await worker.client.issue(double.id, "u-1")
    await worker.client.issue(gone.id, "u-0")
    monkeypatch.setattr("coupon.rules.issuing.issue", always)
    assert (await refused(worker.client.issue(single.id, "u-1"))).code == "ALREADY_ISSUED"
    assert (await refused(worker.client.issue(double.id, "u-1"))).code == "USER_LIMIT"
    results = await worker.client.issue_many(
        issue_request(single.id, f"u-{number}") for number in (2, 3, 1, 4, 5, 6, 7, 8)
    )
    assert [result.status.message for result in results if result.HasField("status")] == ["ALREADY_ISSUED"]
    assert await stored(worker, single.id) == (8, 8)
    monkeypatch.setattr("coupon.rules.words.Policy.remaining", 5)
    assert (await refused(worker.client.issue(gone.id, "u-9"))).code == "SOLD_OUT"
