"""Rate limits: the same arithmetic in Redis' script and in the process, exact for many clients at once."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.limits import Limit, Limiter, LocalBuckets
from gateway.settings import GatewaySettings
from infra import redis
from infra.local.ports import free_ports
from infra.local.servers import start_valkey
from infra.redis import Redis
from tests.fixtures.waiting import eventually

FIVE = Limit("default", 5, 60_000)


def calls_of(statistics: dict[str, dict[str, int]], name: str) -> int:
    return statistics.get(f"cmdstat_{name}", {}).get("calls", 0)


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Redis]:
    async with redis.open(GatewaySettings(redis_url=redis_url)) as opened:
        yield opened


@pytest.fixture
def limiter(cache: Redis) -> Limiter:
    return Limiter(cache, timeout_seconds=1.0, away_seconds=0.2, local_buckets_max=100)


async def test_a_window_may_be_spent_at_once_and_no_more(limiter: Limiter) -> None:
    verdicts = [await limiter.take(FIVE, "u-1") for _ in range(7)]
    assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False] * 2
    assert [verdict.left for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]
    assert 11_000 <= verdicts[-1].retry_ms <= 12_000, "one fits in every window / limit"
    assert 59_000 <= verdicts[-1].full_ms <= 60_000


async def test_what_is_refused_takes_nothing_and_time_brings_it_back(limiter: Limiter) -> None:
    fast = Limit("default", 5, 500)
    for _ in range(20):
        await limiter.take(fast, "u-1")
    waiting = (await limiter.take(fast, "u-1")).retry_ms
    assert waiting <= 100, "refused ones would have pushed it away"
    await asyncio.sleep((waiting + 5) / 1000)
    assert (await limiter.take(fast, "u-1")).allowed


async def test_subjects_and_limits_have_buckets_of_their_own(limiter: Limiter) -> None:
    login = Limit("login", 5, 60_000)
    for _ in range(5):
        await limiter.take(FIVE, "u-1")
    assert (await limiter.take(FIVE, "u-2")).allowed
    assert (await limiter.take(login, "u-1")).allowed
    assert not (await limiter.take(FIVE, "u-1")).allowed


async def test_32_clients_at_once_get_the_window_and_what_time_brought(limiter: Limiter) -> None:
    limit = Limit("default", 50, 1_000)
    started = time.monotonic()
    allowed = 0

    async def hammer() -> None:
        nonlocal allowed
        while time.monotonic() - started < 0.5:
            verdict = await limiter.take(limit, "u-1")
            allowed += verdict.allowed

    await asyncio.gather(*(hammer() for _ in range(32)))
    lasted = time.monotonic() - started
    assert 50 <= allowed <= 50 + 50 * lasted + 1


async def test_every_bucket_ends_by_itself(limiter: Limiter, cache: Redis) -> None:
    for number in range(5):
        await limiter.take(FIVE, f"u-{number}")
    keys = await cache.run("ratelimit", "KEYS", "*")
    assert len(keys) == 5
    for key in keys:
        assert 0 < await cache.run("ratelimit", "PTTL", key) <= 12_001


@pytest.mark.parametrize("odd", ["", "junk", "nan", "inf", "-1", "1e999", "99999999999999999999"])
async def test_an_odd_bucket_locks_nobody_out_for_longer_than_a_window(
    limiter: Limiter, cache: Redis, odd: str
) -> None:
    await cache.run("ratelimit", "SET", "ratelimit:default:u-1", odd)
    verdict = await limiter.take(FIVE, "u-1")
    assert verdict.retry_ms <= 12_001
    assert verdict.full_ms <= 60_001


async def test_a_bucket_of_another_type_becomes_a_bucket(limiter: Limiter, cache: Redis) -> None:
    await cache.run("ratelimit", "HSET", "ratelimit:default:u-1", "a", "b")
    assert [(await limiter.take(FIVE, "u-1")).allowed for _ in range(6)] == [True] * 5 + [False]


async def test_requests_that_wait_meanwhile_go_together_and_each_has_its_own_verdict(
    limiter: Limiter, cache: Redis
) -> None:
    before = await cache.run("ratelimit", "INFO", "commandstats")
    verdicts = await asyncio.gather(*(limiter.take(FIVE, f"u-{number % 3}") for number in range(60)))
    after = await cache.run("ratelimit", "INFO", "commandstats")
    assert sum(verdict.allowed for verdict in verdicts) == 15
    for user in range(3):
        mine = [verdict.left for verdict in verdicts[user::3]]
        assert mine == [4, 3, 2, 1, 0] + [0] * 15, "in the order they came"
    runs = sum(calls_of(after, name) - calls_of(before, name) for name in ("evalsha", "eval"))
    assert runs <= 3


async def test_without_redis_each_gateway_counts_for_itself() -> None:
    async with redis.open(GatewaySettings(redis_url="redis://127.0.0.1:9/0")) as away:
        limiter = Limiter(away, timeout_seconds=0.05, away_seconds=10, local_buckets_max=100)
        await limiter.take(FIVE, "u-1")
        verdicts = [await limiter.take(FIVE, "u-1") for _ in range(5)]
        assert [verdict.allowed for verdict in verdicts] == [True] * 4 + [False]


async def test_a_frozen_redis_holds_up_only_those_who_wait_and_is_asked_again_later(tmp_path: Path) -> None:
    server = await start_valkey(tmp_path, free_ports(1)[0])
    try:
        async with redis.open(GatewaySettings(redis_url=server.url)) as cache:
            limiter = Limiter(cache, timeout_seconds=0.4, away_seconds=0.8, local_buckets_max=100)
            assert (await limiter.take(FIVE, "u-1")).left == 4
            os.kill(server.pid, signal.SIGSTOP)
            started = time.monotonic()
            verdicts = await asyncio.gather(*(limiter.take(FIVE, "u-1") for _ in range(20)))
            assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False] * 15
            assert time.monotonic() - started < 0.8, "those who came meanwhile did not ask in their turn"
            again = time.monotonic()
            await limiter.take(FIVE, "u-1")
            assert time.monotonic() - again < 0.3, "nobody waits for it again so soon"
            os.kill(server.pid, signal.SIGCONT)
            await eventually(lambda: time.monotonic() - started > 1.7)
            assert (await limiter.take(FIVE, "u-2")).left == 4
            assert await cache.run("ratelimit", "EXISTS", "ratelimit:default:u-2") == 1
    finally:
        os.kill(server.pid, signal.SIGCONT)
        await server.stop()


async def test_a_request_that_is_given_up_leaves_nobody_waiting(limiter: Limiter) -> None:
    async with asyncio.TaskGroup() as tasks:
        first, *others = [tasks.create_task(limiter.take(FIVE, f"u-{number}")) for number in range(4)]
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(2):
            for other in others:
                assert (await other).allowed
    assert (await limiter.take(FIVE, "u-9")).allowed


def test_the_local_arithmetic_is_the_scripts() -> None:
    buckets = LocalBuckets(10)
    verdicts = [buckets.take(FIVE, "u-1", 1000.0) for _ in range(6)]
    assert [verdict.left for verdict in verdicts] == [4, 3, 2, 1, 0, 0]
    assert (verdicts[-1].allowed, verdicts[-1].retry_ms, verdicts[-1].full_ms) == (False, 12_000, 60_000)
    assert buckets.take(FIVE, "u-1", 1000.0 + 12_000).allowed
    assert not buckets.take(FIVE, "u-1", 1000.0 + 12_000).allowed


def test_local_buckets_are_bounded() -> None:
    buckets = LocalBuckets(3)
    for number in range(10):
        buckets.take(FIVE, f"u-{number}", 0.0)
    assert len(buckets._arrivals) == 3
