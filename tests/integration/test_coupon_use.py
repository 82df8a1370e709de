"""Use, cancel and expiry through the worker's port: what is stored, what is told, and each refusal."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from infra.errors import NotFound, ValidationFailed
from protos.coupon.v1 import coupon_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import ADMIN, SHOP, refused, rows, topics, user
from tests.fixtures.coupons import Worker, codes, issue_request, running_worker
from tests.fixtures.databases import COUPON, INFRA, set_clock


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url) as found:
        yield found


async def make_coupon(worker: Worker, **terms: object) -> pb.Coupon:
    """Of user u-1, under a policy of these terms."""
    policy = await worker.client.make_policy(**terms)  # type: ignore[arg-type]  # the terms vary in type
    coupon: pb.Coupon = (await worker.client.issue(policy.id)).message
    return coupon


async def pass_the_end(worker: Worker) -> None:
    """Make the database's clock two hours later."""
    await set_clock(worker.settings.database_url, "clock_timestamp() + interval '2 hours'")


async def test_a_use_keeps_the_order_and_tells_it(worker: Worker) -> None:
    coupon = await make_coupon(worker, percent=10, cap=1_500, least=10_000)
    used = (await worker.client.use(coupon.id, 19_999, order_id=900)).message
    assert (used.status, used.order_id, used.order_amount) == (pb.COUPON_STATUS_USED, 900, 19_999)
    assert (used.discount_amount, used.final_amount) == (1_500, 18_499)
    assert used.HasField("used_at")
    assert await worker.client.get(coupon.id) == used
    assert await topics(worker.settings.database_url, coupon.id) == ["coupon.issued", "coupon.used"]
    (event,) = await rows(worker.settings.database_url, "SELECT payload FROM outbox WHERE topic = 'coupon.used'")
    told = orjson.loads(event["payload"])
    assert (told["orderId"], told["orderAmount"], told["discountAmount"]) == ("900", 19_999, 1_500)
    assert (told["couponId"], told["userId"], told["status"]) == (str(coupon.id), "u-1", "USED")
    assert datetime.fromisoformat(told["usedAt"]) == used.used_at.ToDatetime(UTC)


async def test_a_use_without_an_order_id_is_a_use(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    assert not (await worker.client.use(coupon.id, order_id=None)).message.HasField("order_id")


async def test_each_refusal_of_a_use(worker: Worker) -> None:
    coupon = await make_coupon(worker, least=10_000)
    small = await refused(worker.client.use(coupon.id, 9_999))
    assert (small.code, small.facts) == (
        "MINIMUM_ORDER_AMOUNT",
        {"available": 9_999, "requested": 10_000, "missing": 1},
    )
    assert (await refused(worker.client.use(coupon.id, caller=user("u-2")))).code == "FORBIDDEN"
    assert isinstance(await refused(worker.client.use(coupon.id + 1_000)), NotFound)
    assert isinstance(await refused(worker.client.use(coupon.id, -1)), ValidationFailed)
    await worker.client.use(coupon.id, caller=SHOP)
    assert (await refused(worker.client.use(coupon.id))).code == "COUPON_NOT_AVAILABLE"
    await worker.client.cancel(coupon.id, caller=ADMIN)
    assert (await refused(worker.client.use(coupon.id))).code == "COUPON_NOT_AVAILABLE"


async def test_of_many_uses_at_once_one_redeems(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    outcomes = await codes(worker.client.use(coupon.id, order_id=number + 1) for number in range(20))
    assert sorted(outcomes) == ["COUPON_NOT_AVAILABLE"] * 19 + ["OK"]
    assert await topics(worker.settings.database_url, coupon.id) == ["coupon.issued", "coupon.used"]


async def test_a_coupon_is_canceled_once_of_20(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    await worker.client.use(coupon.id)
    outcomes = await codes(worker.client.cancel(coupon.id) for _ in range(20))
    assert sorted(outcomes) == ["ALREADY_CANCELED"] * 19 + ["OK"]
    canceled = await worker.client.get(coupon.id)
    assert (canceled.status, canceled.order_id, canceled.discount_amount) == (pb.COUPON_STATUS_CANCELED, 900, 1_000)
    assert await topics(worker.settings.database_url, coupon.id) == ["coupon.issued", "coupon.used", "coupon.canceled"]


async def test_each_refusal_of_a_cancellation(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    assert (await refused(worker.client.cancel(coupon.id))).code == "COUPON_NOT_USED"
    assert (await refused(worker.client.cancel(coupon.id, caller=user("u-2")))).code == "FORBIDDEN"
    assert isinstance(await refused(worker.client.cancel(coupon.id + 1_000)), NotFound)
    await pass_the_end(worker)
    assert (await refused(worker.client.cancel(coupon.id))).code == "COUPON_NOT_USED"


async def test_a_use_and_a_cancellation_raced_leave_one_story(worker: Worker) -> None:
    policy = await worker.client.make_policy()
    results = await worker.client.issue_many(issue_request(policy.id, f"u-{number}") for number in range(8))
    ids = [result.coupon.id for result in results]
    await asyncio.gather(
        *(codes([worker.client.use(id, caller=SHOP), worker.client.cancel(id, caller=SHOP)]) for id in ids)
    )
    for id in ids:
        told = await topics(worker.settings.database_url, id)
        assert told in (["coupon.issued", "coupon.used"], ["coupon.issued", "coupon.used", "coupon.canceled"])


async def test_an_expiry_commits_with_the_refusal_that_found_it(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    await pass_the_end(worker)
    outcomes = await codes(worker.client.use(coupon.id) for _ in range(5))
    assert outcomes == ["COUPON_EXPIRED"] * 5
    (row,) = await rows(worker.settings.database_url, "SELECT status, expired_at, expiration_time FROM coupons")
    assert (row["status"], row["expired_at"]) == ("EXPIRED", row["expiration_time"])
    assert await topics(worker.settings.database_url, coupon.id) == ["coupon.issued", "coupon.expired"]


async def test_a_stranger_expires_nothing(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    await pass_the_end(worker)
    assert (await refused(worker.client.use(coupon.id, caller=user("u-2")))).code == "FORBIDDEN"
    assert await topics(worker.settings.database_url, coupon.id) == ["coupon.issued"]


async def test_a_coupon_is_over_at_the_instant_of_its_end(worker: Worker) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    coupon = await make_coupon(worker, end_time=end)
    other = (await worker.client.issue(coupon.coupon_policy_id, "u-2")).message
    await set_clock(worker.settings.database_url, f"timestamptz '{end - timedelta(microseconds=1)}'")
    await worker.client.use(coupon.id)
    await set_clock(worker.settings.database_url, f"timestamptz '{end}'")
    assert (await refused(worker.client.use(other.id, caller=user("u-2")))).code == "COUPON_EXPIRED"


async def test_the_clock_of_a_use_is_read_after_the_lock(worker: Worker) -> None:
    """A holder that only locks the row, past its end, and lets go: the waiter's time is that after the wait."""
    end = datetime.now(UTC) + timedelta(seconds=0.8)
    coupon = await make_coupon(worker, end_time=end)
    async with worker.database.transaction() as conn:
        await conn.fetch("SELECT id FROM coupons WHERE id = $1 FOR UPDATE", coupon.id)
        await asyncio.sleep((end - datetime.now(UTC)).total_seconds() - 0.1)
        waiting = asyncio.create_task(refused(worker.client.use(coupon.id)))
        await asyncio.sleep(0.15)  # less than the lock timeout, past the end
    assert (await waiting).code == "COUPON_EXPIRED"


async def test_a_row_that_stays_locked_is_unavailable_in_time(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    async with worker.database.transaction() as conn:
        await conn.fetch("SELECT id FROM coupons WHERE id = $1 FOR UPDATE", coupon.id)
        assert (await refused(worker.client.use(coupon.id))).code == "UNAVAILABLE"
    assert (await worker.client.use(coupon.id)).message.status == pb.COUPON_STATUS_USED


async def test_the_sweep_expires_what_is_due_and_tells_it_once(worker: Worker) -> None:
    policy = await worker.client.make_policy()
    results = await worker.client.issue_many(issue_request(policy.id, f"u-{number}") for number in range(12))
    used, *due = [result.coupon for result in results]
    await worker.client.use(used.id, caller=SHOP)
    later = await worker.client.make_policy(end_time=datetime.now(UTC) + timedelta(days=1))
    alive = (await worker.client.issue(later.id)).message
    await worker.expiry.run()
    url = worker.settings.database_url
    assert await rows(url, "SELECT 1 FROM coupons WHERE status = 'EXPIRED'") == []
    await pass_the_end(worker)
    await asyncio.gather(*(worker.expiry.run() for _ in range(4)))
    await worker.expiry.run()
    for coupon in due:
        assert await topics(url, coupon.id) == ["coupon.issued", "coupon.expired"]
    assert (await worker.client.get(used.id)).status == pb.COUPON_STATUS_USED
    assert (await worker.client.get(alive.id)).status == pb.COUPON_STATUS_AVAILABLE


async def test_sweeps_without_any_lock_in_redis_expire_each_coupon_once(
    make_database: MakeDatabase, redis_url: str
) -> None:
    url = await make_database(INFRA, COUPON)
    async with running_worker(url, redis_url, expire_rows_max=7) as worker:
        policy = await worker.client.make_policy()
        await worker.client.issue_many(issue_request(policy.id, f"u-{number}") for number in range(50))
        await pass_the_end(worker)
        counts = await asyncio.gather(*(worker.expiry.expire_once(policy.id) for _ in range(10)))
        assert sum(counts) == 50
        assert len(await rows(url, "SELECT DISTINCT key FROM outbox WHERE topic = 'coupon.expired'")) == 50
        assert len(await rows(url, "SELECT key FROM outbox WHERE topic = 'coupon.expired'")) == 50


async def test_a_sweep_leaves_a_coupon_that_somebody_is_at(worker: Worker) -> None:
    coupon = await make_coupon(worker)
    await pass_the_end(worker)
    async with worker.database.transaction() as conn:
        await conn.fetch("SELECT id FROM coupons WHERE id = $1 FOR UPDATE", coupon.id)
        assert await worker.expiry.expire_once(coupon.coupon_policy_id) == 0
    assert await worker.expiry.expire_once(coupon.coupon_policy_id) == 1
