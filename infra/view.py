"""The gate's view: {units left, row version} of a row, in Redis, for a second. It only says when to look closer.

Written after each commit, forwards only; nothing is ever taken from it, so it cannot drift, and nobody waits for it.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from infra import telemetry
from infra.logs import get_logger
from infra.redis import Redis, RedisUnavailable
from infra.telemetry import instruments, names

SCRIPT = Path(__file__).parent / "lua/set_view.lua"
Result: TypeAlias = Literal["passed", "refused", "overruled", "missing", "error"]
RESULTS: tuple[Result, ...] = ("passed", "refused", "overruled", "missing", "error")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Units:
    """How many were left when the row had this version."""

    units: int
    version: int


@dataclass(frozen=True, slots=True)
class _Published:
    version: int
    units: int
    context: telemetry.Context


class View:
    """The views of one kind of row: keys `{prefix}:{id}`."""

    def __init__(self, redis: Redis, prefix: str, *, operation: str = "redis.EVALSHA") -> None:
        """`prefix` names the keys and labels the metrics; `operation` is what searches by moment call a write."""
        self._redis, self._prefix = redis, prefix
        self._script = redis.script(SCRIPT, operation=operation)
        self._readings: dict[int, asyncio.Future[Units | Result]] = {}
        self._pending: dict[int, _Published] = {}
        self._filled = asyncio.Event()
        self._counts = {result: instruments.GATE_REQUESTS.labels(prefix, result) for result in RESULTS}

    async def read(self, id: int) -> Units | None:
        """What the view says; None where it is missing, odd, slow or away, which is counted here.

        Who asks while the same view is being read shares that reading: a hint may be older than the question, and a
        command to Redis costs more than all the rest of an early no. A sampled request reads for itself, to show it.
        """
        reading = self._readings.get(id)
        if reading is None or telemetry.current_span().is_recording():
            found = await self._read_for_all(id)
        else:
            found = await asyncio.shield(reading)
        if not isinstance(found, Units):
            self.count(found)
            return None
        return found

    async def _read_for_all(self, id: int) -> Units | Result:
        reading = self._readings[id] = asyncio.get_running_loop().create_future()
        found: Units | Result = "error"  # for those who share it when this one is cancelled
        try:
            found = await self._read_once(id)
        finally:
            reading.set_result(found)
            if self._readings.get(id) is reading:
                del self._readings[id]
        return found

    async def _read_once(self, id: int) -> Units | Result:
        try:
            reply = await self._redis.run(
                self._prefix,
                "HMGET",
                self._redis.name(self._prefix, id),
                "units",
                "version",
                timeout_seconds=self._redis.settings.gate_timeout_seconds,
            )
            return Units(int(reply[0]), int(reply[1]))
        except RedisUnavailable:
            return "error"
        except (TypeError, ValueError):
            return "missing"

    def count(self, result: Result) -> None:
        """What came of it for this request; the story says passed, refused or overruled (by the database)."""
        self._counts[result].inc()
        telemetry.add_span_attributes({names.GATE: result})

    def publish(self, id: int, version: int, units: int) -> None:
        """Have it written soon. Of several for one row only the newest is; with too many rows waiting, none is."""
        waiting = self._pending.get(id)
        if waiting is None and len(self._pending) >= self._redis.settings.view_pending_max:
            return  # the old view lives a second at most
        if waiting is None or waiting.version <= version:
            span = telemetry.current_span()
            context = telemetry.context_of(span) if span.is_recording() else telemetry.empty_context()
            self._pending[id] = _Published(version, units, context)
            self._filled.set()

    async def run(self) -> None:
        """Write what is published, until cancelled. The process's background task."""
        while True:
            await self._filled.wait()
            while self._pending:
                id = next(iter(self._pending))  # first come, first written: a hot row does not starve the others
                await self._write(id, self._pending.pop(id))
            self._filled.clear()

    async def _write(self, id: int, published: _Published) -> None:
        key, ttl_ms = self._redis.name(self._prefix, id), self._redis.settings.gate_ttl_ms
        fields: list[str | float] = [published.version, ttl_ms, "units", published.units]
        try:
            with telemetry.attached(published.context):
                await self._script.run(self._prefix, keys=[key], args=fields)
        except RedisUnavailable as error:
            log.debug("view.not_written", prefix=self._prefix, error=str(error))
