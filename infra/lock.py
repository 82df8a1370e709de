"""A lock in Redis that spares other instances the same work. No safety hangs on it, so nobody waits for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from infra import telemetry
from infra.redis import Redis, RedisUnavailable
from infra.telemetry import instruments, names

SCRIPT = Path(__file__).parent / "lua/unlock.lua"


@asynccontextmanager
async def lock(redis: Redis, family: str, id: int | str, *, ttl_seconds: float) -> AsyncIterator[bool]:
    """Whether to do the work: False while another instance is at it.

    Without Redis it is True: the work is safe without a lock, and must not stop.
    """
    token, key, began = str(uuid4()), redis.name(f"lock:{family}", id), perf_counter()
    result = await _acquire(redis, family, key, token, ttl_seconds)
    instruments.LOCK_ACQUIRE_SECONDS.labels(family, result).observe(perf_counter() - began)
    held = perf_counter()
    try:
        yield result != "taken"
    finally:
        if result == "acquired":
            released = await _release(redis, family, key, token)
            instruments.LOCK_HOLD_SECONDS.labels(family, released).observe(perf_counter() - held)


async def _acquire(redis: Redis, family: str, key: str, token: str, ttl_seconds: float) -> str:
    with telemetry.with_span(f"lock acquire {family}") as span:
        started = perf_counter()
        try:
            reply = await redis.run(f"lock:{family}", "SET", key, token, "NX", "PX", round(ttl_seconds * 1000))
        except RedisUnavailable:
            return "error"
        finally:
            span.set_attribute(names.LOCK_WAIT_MS, (perf_counter() - started) * 1000)
        return "acquired" if reply else "taken"


async def _release(redis: Redis, family: str, key: str, token: str) -> str:
    with telemetry.with_span(f"lock release {family}"):
        try:
            if await redis.script(SCRIPT).run(f"lock:{family}", keys=[key], args=[token]):
                return "released"
        except RedisUnavailable:
            return "error"
    instruments.LOCK_LOST.labels(family).inc()
    return "lost"
