"""The one door to Redis: bounded, never repeating a write, each command with a constant name.

Redis only spares Postgres work, so there is one error for all that can go wrong and every caller can do without.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import redis.asyncio as driver
from opentelemetry.trace import Span
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from infra import telemetry
from infra.logs import get_logger
from infra.settings import Settings
from infra.telemetry import SpanKind, instruments, metrics, names

SYSTEM = "redis"
PING_SECONDS = 1.0
ERRORS = (RedisError, OSError, EOFError, TimeoutError)

log = get_logger(__name__)


class RedisUnavailable(Exception):
    """No usable answer: not there, too slow, or an error instead of a value. The cause says which."""


class Redis:
    """Commands and scripts. Replies are text; bytes that are none are replaced, never an error."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client = _cluster(settings) if settings.redis_cluster else _node(settings)
        self._namespace = str(driver.connection.parse_url(settings.redis_url).get("db", 0))
        self._up = instruments.DEPENDENCY_UP.labels(SYSTEM)
        self._was_up: bool | None = None
        self._closed = False
        self._scripts: dict[tuple[Path, str], Script] = {}

    def name(self, family: str, id: int | str) -> str:
        """The key: `timesale:inventory:42`; in a cluster `timesale:inventory:{42}`, so that one id shares a slot."""
        return f"{family}:{{{id}}}" if self.settings.redis_cluster else f"{family}:{id}"

    async def run(self, family: str, command: str, *args: str | float, timeout_seconds: float | None = None) -> Any:
        """One command; `family` is what its key begins with.

        :raises RedisUnavailable:
        """
        return await self._run(
            f"{command} {family}",
            command,
            {names.OPERATION: f"redis.{command}"},
            lambda: self._client.execute_command(command, *args),
            timeout_seconds,
        )

    def script(self, path: Path, *, operation: str = "redis.EVALSHA") -> "Script":
        """The Lua script of this file; `operation` is what searches by moment call its runs."""
        known = self._scripts.get((path, operation))
        if known is None:
            known = self._scripts[path, operation] = Script(self, path, operation)
        return known

    async def watch(self) -> None:
        """Ping until closed, so that the gauge says whether it is there even when nobody asks."""
        while not self._closed:
            try:
                async with asyncio.timeout(self.settings.redis_timeout_seconds):
                    await self._client.ping()
            except ERRORS as error:
                self._seen(error)
            else:
                self._seen(None)
            await asyncio.sleep(PING_SECONDS)

    async def close(self) -> None:
        """Drop the connections."""
        with contextlib.suppress(*ERRORS):
            await self._client.aclose()

    async def _run(
        self,
        summary: str,
        command: str,
        attributes: dict[str, Any],
        ask: Callable[[], Awaitable[Any]],
        timeout_seconds: float | None,
    ) -> Any:
        described = {
            names.DB_SYSTEM_NAME: SYSTEM,
            names.DB_NAMESPACE: self._namespace,
            names.DB_OPERATION_NAME: command,
            **attributes,
        }
        with telemetry.span(summary, SpanKind.CLIENT, described) as span:
            started = perf_counter()
            try:
                async with asyncio.timeout(timeout_seconds or self.settings.redis_timeout_seconds):
                    reply = await _uncancelled(ask())
            except ERRORS as error:
                self._failed(span, summary, command, error, perf_counter() - started)
                raise RedisUnavailable(_kind(error)) from error
            metrics.observe(self._histogram(command, summary), perf_counter() - started, span)
            if command == "GET":
                span.set_attribute(names.CACHE_HIT, reply is not None)
            return reply

    def _failed(self, span: Span, summary: str, command: str, error: Exception, seconds: float) -> None:
        kind = _kind(error)
        code = kind if isinstance(error, ResponseError) else ""
        metrics.observe(self._histogram(command, summary, code, kind), seconds, span)
        span.set_attribute(names.ERROR_TYPE, kind)
        if code:
            span.set_attribute(names.DB_RESPONSE_STATUS_CODE, code)

    def _histogram(self, command: str, summary: str, code: str = "", error: str = "") -> Any:
        return instruments.DB_SECONDS.labels(SYSTEM, self._namespace, command, summary, code, error)

    def _seen(self, error: Exception | None) -> None:
        if error is not None and self._was_up is not False:
            log.warning("redis.lost", error=_kind(error))
        if error is None and self._was_up is not True:
            log.info("redis.connected")
        self._was_up = error is None
        self._up.set(self._was_up)


class Script:
    """One Lua script, called by its hash and sent whole where the server does not know it."""

    def __init__(self, redis: Redis, path: Path, operation: str) -> None:
        self._redis, self._text = redis, path.read_text(encoding="utf-8")
        self._hash = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._summary = f"EVALSHA {path.stem}"
        self._attributes = {names.OPERATION: operation, names.DB_STORED_PROCEDURE_NAME: path.stem}

    async def run(
        self,
        family: str,
        *,
        keys: Sequence[str],
        args: Sequence[str | float] = (),
        timeout_seconds: float | None = None,
    ) -> Any:
        """Its return value. `family` is what the keys begin with.

        :raises RedisUnavailable:
        """
        client = self._redis._client

        async def ask() -> Any:
            try:
                return await client.execute_command("EVALSHA", self._hash, len(keys), *keys, *args)
            except NoScriptError:  # a restarted server; the script did not run
                return await client.execute_command("EVAL", self._text, len(keys), *keys, *args)

        return await self._redis._run(self._summary, "EVALSHA", self._attributes, ask, timeout_seconds)


@asynccontextmanager
async def open(settings: Settings) -> AsyncIterator[Redis]:
    """Redis as these settings name it; connects when first used, and a process starts without it."""
    redis = Redis(settings)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(redis.watch(), name="redis watch")
            try:
                yield redis
            except Exception as error:  # carried past the task group, which would wrap it
                failure = error
            finally:
                redis._closed = True  # a driver in the middle of a time-out may swallow the cancel
                watching.cancel()
    finally:
        await redis.close()
    if failure is not None:
        raise failure


async def _uncancelled(reply: Awaitable[Any]) -> Any:
    """The reply, unless its task was cancelled meanwhile: before Python 3.12 the driver's `wait_for` may swallow that.

    :raises CancelledError:
    """
    task = asyncio.current_task()
    cancels = task.cancelling() if task else 0
    got = await reply
    if task and task.cancelling() > cancels:
        raise asyncio.CancelledError
    return got


def _node(settings: Settings) -> Any:
    pool = driver.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=settings.redis_pool_size_max,
        timeout=settings.redis_pool_wait_seconds,
        **_connection(settings),
    )
    return driver.Redis.from_pool(pool)  # so that closing it closes the pool


def _cluster(settings: Settings) -> Any:
    return driver.RedisCluster.from_url(
        settings.redis_url, max_connections=settings.redis_pool_size_max, **_connection(settings)
    )


def _connection(settings: Settings) -> dict[str, Any]:
    return {
        "protocol": 2,  # RESP3 without retries raises on the first command after a server restart
        "retry": Retry(NoBackoff(), 0),  # a time-out may have written: a repeat would write twice
        "socket_timeout": settings.redis_timeout_seconds,
        "socket_connect_timeout": settings.redis_timeout_seconds,
        "decode_responses": True,
        "encoding_errors": "replace",
        "client_name": settings.service_name,
        "driver_info": None,  # each connection would say its library first
    }


def _kind(error: Exception) -> str:
    """A short name out of a closed set: the server's error prefix (WRONGTYPE), else the exception's."""
    prefix = str(error).partition(" ")[0]
    return prefix if isinstance(error, ResponseError) and prefix.isupper() else type(error).__name__
