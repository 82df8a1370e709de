"""Redis may be empty, wrong, of another type, gone: the answers stay right. It only spares the database work."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Raw

from infra.local.ports import free_ports
from protos.coupon.v1 import coupon_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import SHOP, key, refused, rows
from tests.fixtures.coupons import Worker, codes, running_worker
from tests.fixtures.databases import COUPON, INFRA
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually

PATIENT = {"gate_timeout_seconds": 2.0, "gate_ttl_ms": 10_000}  # a busy machine is no slow Redis


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url, **PATIENT) as found:
        yield found


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Raw]:
    async with Raw.from_url(redis_url, protocol=2, decode_responses=True) as opened:
        yield opened


def view_of(policy: pb.Policy) -> str:
    return f"coupon:inventory:{policy.id}"


async def lie(raw: Raw, policy: pb.Policy, units: int | str) -> None:
    """A view that nobody's commit will correct soon."""
    await raw.delete(view_of(policy))
    await raw.hset(view_of(policy), mapping={"units": units, "version": 10**9})


async def test_each_commit_writes_the_view(worker: Worker, raw: Raw) -> None:
    policy = await worker.client.make_policy(5)
    await worker.client.issue(policy.id)
    await eventually(lambda: raw.exists(view_of(policy)))
    assert await raw.hgetall(view_of(policy)) == {"units": "4", "version": "1"}
    assert 0 < await raw.pttl(view_of(policy)) <= 10_000


async def test_a_sold_out_view_and_the_database_refuse_without_a_transaction(
    worker: Worker, raw: Raw, spans: Spans
) -> None:
    policy = await worker.client.make_policy(1)
    await worker.client.issue(policy.id, "winner")
    await lie(raw, policy, 0)
    spans.exporter.clear()
    refusal = await refused(worker.client.issue(policy.id, "loser"))
    assert (refusal.code, refusal.facts) == ("SOLD_OUT", {"available": 0, "requested": 1, "missing": 1})
    names = spans.names()
    assert "HMGET coupon:inventory" in names
    assert "SELECT policies" in names
    assert "BEGIN" not in names


@pytest.mark.parametrize("units", [0, -5, 10**6, "plenty"])
async def test_a_lying_view_costs_nobody_a_coupon(worker: Worker, raw: Raw, units: int | str) -> None:
    policy = await worker.client.make_policy(3)
    lying = asyncio.Event()

    async def keep_lying() -> None:
        while not lying.is_set():
            await lie(raw, policy, units)

    liar = asyncio.create_task(keep_lying())
    outcomes = await codes(worker.client.issue(policy.id, f"u-{number}") for number in range(30))
    lying.set()
    await liar
    assert Counter(outcomes) == {"OK": 3, "SOLD_OUT": 27}


async def test_a_view_of_another_type_lets_through(worker: Worker, raw: Raw) -> None:
    policy = await worker.client.make_policy(2)
    await raw.set(view_of(policy), "no hash")
    assert (await worker.client.issue(policy.id)).message.user_id == "u-1"
    await raw.set(view_of(policy), "no hash")
    assert (await worker.client.issue(policy.id, "u-2")).message.user_id == "u-2"


async def test_a_flush_in_the_middle_changes_nothing(worker: Worker, raw: Raw) -> None:
    policy = await worker.client.make_policy(40)
    flushing = asyncio.Event()

    async def keep_flushing() -> None:
        while not flushing.is_set():
            await raw.flushall()

    flusher = asyncio.create_task(keep_flushing())
    outcomes = await codes(worker.client.issue(policy.id, f"u-{number}") for number in range(120))
    flushing.set()
    await flusher
    assert Counter(outcomes) == {"OK": 40, "SOLD_OUT": 80}


async def test_without_redis_every_answer_is_right(make_database: MakeDatabase) -> None:
    nowhere = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    async with running_worker(await make_database(INFRA, COUPON), nowhere) as worker:
        policy = await worker.client.make_policy(7)
        outcomes = await codes(worker.client.issue(policy.id, f"u-{number}") for number in range(50))
        assert Counter(outcomes) == {"OK": 7, "SOLD_OUT": 43}
        assert (await worker.client.use(1, caller=SHOP)).message.status == pb.COUPON_STATUS_USED
        await rows(worker.settings.database_url, "UPDATE policies SET end_time = start_time + interval '1 second'")
        await rows(worker.settings.database_url, "UPDATE coupons SET expiration_time = issued_at")
        await worker.expiry.run()
        assert len(await rows(worker.settings.database_url, "SELECT 1 FROM coupons WHERE status = 'EXPIRED'")) == 6


async def test_a_view_that_says_sold_out_never_hides_the_last_unit(worker: Worker, raw: Raw) -> None:
    policy = await worker.client.make_policy(1)
    await lie(raw, policy, 0)
    assert (await worker.client.issue(policy.id)).message.user_id == "u-1"


async def test_a_view_that_says_sold_out_never_refuses_a_winners_retry(worker: Worker, raw: Raw) -> None:
    policy = await worker.client.make_policy(1)
    first = await worker.client.issue(policy.id, command_id=key("win"))
    await lie(raw, policy, 0)
    again = await worker.client.issue(policy.id, command_id=key("win"))
    assert (again.replayed, again.message) == (True, first.message)
    await rows(worker.settings.database_url, "DELETE FROM commands")
    await lie(raw, policy, 0)
    assert (await worker.client.issue(policy.id, command_id=key("win"))).message.id == first.message.id


async def test_units_that_are_added_are_sold_whatever_the_view_says(worker: Worker, raw: Raw) -> None:
    policy = await worker.client.make_policy(1)
    await worker.client.issue(policy.id)
    assert (await refused(worker.client.issue(policy.id, "u-2"))).code == "SOLD_OUT"
    await rows(worker.settings.database_url, "UPDATE policies SET total_quantity = 2")
    await lie(raw, policy, 0)
    assert (await worker.client.issue(policy.id, "u-2")).message.user_id == "u-2"
