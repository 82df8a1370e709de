"""The door to Redis, the gate's view and the lock, on a real server: also slow, lying, restarted and gone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis as Raw

from infra import redis, telemetry
from infra.local.ports import free_ports
from infra.local.servers import start_valkey
from infra.lock import lock
from infra.redis import Redis, RedisUnavailable
from infra.settings import Settings
from infra.telemetry import instruments
from infra.view import Units, View
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually


def settings_for(url: str, **limits: object) -> Settings:
    return Settings.model_validate({"redis_url": url, "redis_timeout_seconds": 2, "gate_timeout_seconds": 2, **limits})


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with redis.open(settings_for(redis_url)) as opened:
        yield opened


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Raw]:
    async with Raw.from_url(redis_url, protocol=2, decode_responses=True) as opened:
        yield opened


@pytest.fixture
async def away() -> AsyncIterator[Redis]:
    async with redis.open(settings_for(f"redis://127.0.0.1:{free_ports(1)[0]}/0")) as opened:
        yield opened


def script(folder: Path, text: str) -> Path:
    path = folder / "odd.lua"
    path.write_text(text)
    return path


async def write_view(view: View, id: int, version: int, units: int) -> None:
    view.publish(id, version=version, units=units)
    await view._write(id, view._pending.pop(id))


async def test_a_reply_is_text_and_bytes_that_are_none_are_replaced(client: Redis) -> None:
    await client.run("a", "SET", "a:1", "7")
    assert await client.run("a", "GET", "a:1") == "7"
    assert await client.run("a", "GET", "a:2") is None


async def test_a_name_has_braces_in_a_cluster_only(client: Redis, redis_url: str) -> None:
    assert client.name("timesale:inventory", 42) == "timesale:inventory:42"
    assert (
        Redis(settings_for(redis_url, redis_cluster=True)).name("timesale:inventory", 42) == "timesale:inventory:{42}"
    )


async def test_what_is_not_there_is_unavailable(away: Redis) -> None:
    with pytest.raises(RedisUnavailable):
        await away.run("a", "GET", "a:1")
    with pytest.raises(RedisUnavailable):
        await away.script(Path("infra/lua/unlock.lua")).run("a", keys=["a:1"], args=["x"])


async def test_an_error_reply_is_unavailable(client: Redis) -> None:
    await client.run("a", "SET", "a:1", "7")
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        await client.run("a", "HMGET", "a:1", "units")


async def test_a_frozen_server_costs_the_timeout_and_the_next_reply_is_its_own(client: Redis, raw: Raw) -> None:
    await client.run("a", "SET", "a:1", "7")
    await raw.client_pause(300)
    with pytest.raises(RedisUnavailable):
        await client.run("a", "GET", "a:1", timeout_seconds=0.02)
    await raw.client_unpause()
    assert await client.run("a", "GET", "a:2") is None


async def test_a_cancel_is_never_lost_at_whatever_step_it_comes(client: Redis) -> None:
    await client.run("x", "PING")
    for steps in range(60):
        task = asyncio.create_task(client.run("x", "GET", "x"))
        for _ in range(steps % 10):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        await asyncio.wait([task])
        assert was_done or task.cancelled()


async def test_a_script_survives_a_server_that_forgot_it(client: Redis, tmp_path: Path, spans: Spans) -> None:
    odd = client.script(script(tmp_path, "return {KEYS[1], ARGV[1], 7}"))
    with telemetry.root("request"):
        assert await odd.run("a", keys=["k"], args=["v"]) == ["k", "v", 7]
    await client.run("script", "SCRIPT", "FLUSH")
    assert await odd.run("a", keys=["k"], args=["v"]) == ["k", "v", 7]
    (span,) = spans.named("EVALSHA odd")
    assert span.status.is_unset
    assert dict(span.attributes or {}) == {
        "db.system.name": "redis",
        "db.namespace": "0",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "odd",
        "promo.operation": "redis.EVALSHA",
    }


async def test_a_command_has_a_span_that_names_its_family_and_never_its_key(client: Redis, spans: Spans) -> None:
    with telemetry.root("request"):
        await client.run("point:balance", "GET", "point:balance:u-1")
    span = spans.named("GET point:balance")[0]
    assert span.attributes is not None
    assert span.attributes["promo.cache.hit"] is False
    assert "u-1" not in str(span.attributes)


async def test_a_view_is_read_as_it_was_written_and_lives_a_second(client: Redis, raw: Raw) -> None:
    view = View(client, "coupon:inventory")
    assert await view.read(7) is None
    await write_view(view, 7, version=3, units=0)
    assert await view.read(7) == Units(units=0, version=3)
    assert 0 < await raw.pttl("coupon:inventory:7") <= 1000


async def test_a_view_moves_forwards_only(client: Redis) -> None:
    view = View(client, "coupon:inventory")
    await write_view(view, 7, version=3, units=5)
    await write_view(view, 7, version=2, units=6)
    assert await view.read(7) == Units(units=5, version=3)
    await write_view(view, 7, version=4, units=4)
    assert await view.read(7) == Units(units=4, version=4)


@pytest.mark.parametrize("version", ["inf", "1e300", "x", "", "99999999999999999"])
async def test_an_odd_version_is_replaced(client: Redis, raw: Raw, version: str) -> None:
    view = View(client, "coupon:inventory")
    await raw.hset("coupon:inventory:7", mapping={"units": "0", "version": version})
    await write_view(view, 7, version=1, units=9)
    assert await view.read(7) == Units(units=9, version=1)


async def test_another_type_is_no_view_and_is_replaced(client: Redis, raw: Raw) -> None:
    view = View(client, "coupon:inventory")
    await raw.set("coupon:inventory:7", "odd")
    assert await view.read(7) is None
    await write_view(view, 7, version=1, units=9)
    assert await view.read(7) == Units(units=9, version=1)


@pytest.mark.parametrize("fields", [{"units": "x", "version": "1"}, {"units": "1"}, {"units": "\udcff"}])
async def test_an_odd_view_lets_through(client: Redis, raw: Raw, fields: dict[str, str]) -> None:
    mapping = {name: value.encode(errors="surrogateescape") for name, value in fields.items()}
    await raw.hset("coupon:inventory:7", mapping=mapping)  # type: ignore[arg-type]  # bytes that are no text
    assert await View(client, "coupon:inventory").read(7) is None


async def test_a_view_that_is_away_or_slow_lets_through_and_is_counted(away: Redis, spans: Spans) -> None:
    counted = instruments.GATE_REQUESTS.labels("coupon:inventory", "error")
    before = counted._value.get()
    with telemetry.root("request"):
        assert await View(away, "coupon:inventory").read(7) is None
    assert counted._value.get() == before + 1
    request = spans.named("request")[0]
    assert request.attributes is not None
    assert request.attributes["promo.gate"] == "error"


async def test_of_many_views_of_a_row_the_newest_is_written(client: Redis, spans: Spans) -> None:
    view = View(client, "coupon:inventory")
    with telemetry.root("batch"):
        for version in (1, 3, 2):
            view.publish(7, version=version, units=10 - version)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(view.run())
        await eventually(lambda: spans.named("EVALSHA set_view"))
        running.cancel()
    assert await view.read(7) == Units(units=7, version=3)
    (written,) = spans.named("EVALSHA set_view")
    (batch,) = spans.named("batch")
    assert written.parent is not None
    assert batch.context is not None
    assert written.parent.span_id == batch.context.span_id


async def test_who_asks_while_a_view_is_read_shares_that_reading(client: Redis, raw: Raw) -> None:
    view = View(client, "coupon:inventory")
    await write_view(view, 7, version=1, units=5)
    await raw.config_resetstat()
    found = await asyncio.gather(*(view.read(7) for _ in range(100)))
    assert found == [Units(units=5, version=1)] * 100
    stats = await raw.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 1
    assert await view.read(7) == Units(units=5, version=1)
    assert (await raw.info("commandstats"))["cmdstat_hmget"]["calls"] == 2


async def test_a_sampled_request_reads_the_view_for_itself(client: Redis, spans: Spans) -> None:
    view = View(client, "coupon:inventory")
    with telemetry.root("request"):
        await asyncio.gather(*(view.read(7) for _ in range(3)))
    assert len(spans.named("HMGET coupon:inventory")) == 3


async def test_views_that_wait_are_bounded(redis_url: str) -> None:
    async with redis.open(settings_for(redis_url, view_pending_max=2)) as client:
        view = View(client, "coupon:inventory")
        for id in (1, 2, 3):
            view.publish(id, version=1, units=1)
        view.publish(1, version=2, units=0)
        assert {id: waiting.version for id, waiting in view._pending.items()} == {1: 2, 2: 1}


async def test_a_view_goes_on_after_redis_was_away(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    async with redis.open(settings_for(f"redis://127.0.0.1:{port}/0")) as client, asyncio.TaskGroup() as tasks:
        view = View(client, "coupon:inventory")
        running = tasks.create_task(view.run())
        view.publish(7, version=1, units=5)
        await eventually(lambda: not view._pending)
        server = await start_valkey(tmp_path, port)
        view.publish(7, version=2, units=4)
        await eventually(lambda: view.read(7))
        assert await view.read(7) == Units(units=4, version=2)
        running.cancel()
        await server.stop()


async def test_a_lock_is_held_once_and_given_back(client: Redis, raw: Raw) -> None:
    async with lock(client, "coupon:policy", 7, ttl_seconds=10) as first:
        async with lock(client, "coupon:policy", 7, ttl_seconds=10) as second:
            assert (first, second) == (True, False)
        assert await raw.pttl("lock:coupon:policy:7") > 9000
    assert await raw.exists("lock:coupon:policy:7") == 0


async def test_a_lock_that_ran_out_is_not_taken_from_its_next_holder(client: Redis, raw: Raw) -> None:
    async with lock(client, "coupon:policy", 7, ttl_seconds=10):
        await raw.set("lock:coupon:policy:7", "another's")
    assert await raw.get("lock:coupon:policy:7") == "another's"


async def test_without_redis_the_work_is_done_without_a_lock(away: Redis) -> None:
    async with lock(away, "coupon:policy", 7, ttl_seconds=10) as held:
        assert held


async def test_a_lock_shows_its_two_moments(client: Redis, spans: Spans) -> None:
    with telemetry.root("expire coupons"):
        async with lock(client, "coupon:policy", 7, ttl_seconds=10):
            pass
    assert spans.names() == [
        "SET lock:coupon:policy",
        "lock acquire coupon:policy",
        "EVALSHA unlock",
        "lock release coupon:policy",
        "expire coupons",
    ]
