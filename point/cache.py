"""The cached balance in Redis: a copy for readers, never a ground for a decision.

A tombstone with the coming `seq` is set before a commit and the value after it; both only ever move forwards. A reader
that meets a tombstone, an odd value or no Redis reads Postgres.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from infra import telemetry
from infra.logs import get_logger
from infra.redis import Redis, RedisUnavailable
from point import metrics
from point.rules import Account, Transaction
from point.settings import PointSettings

FAMILY = "point:balance"
SCRIPT = Path(__file__).parent / "lua" / "set_balance.lua"
TOGETHER_MAX = 500  # entries in one run of the script
_VALUE = re.compile(r"(?P<seq>\d{1,19}):(?P<balance>\d{1,16})")

log = get_logger(__name__)


class Cache:
    """The balances under `point:balance:{userId}`, each a string `seq:balance`, or `seq:` for a tombstone."""

    def __init__(self, redis: Redis, settings: PointSettings) -> None:
        self._redis, self._settings = redis, settings
        self._script = redis.script(SCRIPT, operation="redis.SET")
        self._pending: dict[str, tuple[Account, telemetry.Context]] = {}
        self._filled = asyncio.Event()

    async def read(self, user_id: str) -> Account | None:
        """The cached balance; None where Postgres must be asked."""
        try:
            value = await self._redis.run(
                FAMILY, "GET", self._redis.name(FAMILY, user_id), timeout_seconds=self._settings.gate_timeout_seconds
            )
        except RedisUnavailable:
            metrics.CACHE_ERROR.inc()
            return None
        match = _VALUE.fullmatch(value or "")
        if match is None:
            metrics.CACHE_MISS.inc()
            return None
        metrics.CACHE_HIT.inc()
        return Account(user_id, int(match["balance"]), int(match["seq"]))

    async def bury(self, rows: Iterable[Transaction]) -> None:
        """Tombstones for the users of these rows, before the commit. A failure costs a stale read, never a decision."""
        last = {row.user_id: row.seq for row in rows}
        await self._set([(user_id, seq, "") for user_id, seq in last.items()], self._settings.balance_tombstone_ms)

    def publish(self, rows: Iterable[Transaction]) -> None:
        """Have the balances after these rows written soon; nobody waits for it."""
        for row in rows:
            self.publish_account(Account(row.user_id, row.balance_snapshot, row.seq))

    def publish_account(self, account: Account) -> None:
        """The same for a balance that was read. Of several for one user only the newest is written."""
        waiting = self._pending.get(account.user_id)
        if waiting is None and len(self._pending) >= self._settings.view_pending_max:
            return  # the tombstone sends readers to the database until it ends
        if waiting is None or waiting[0].last_seq <= account.last_seq:
            span = telemetry.current_span()
            context = telemetry.context_of(span) if span.is_recording() else telemetry.empty_context()
            self._pending[account.user_id] = account, context
            self._filled.set()

    async def run(self) -> None:
        """Write what is published, until cancelled. The process's background task."""
        while True:
            await self._filled.wait()
            while self._pending:
                together = [self._pending.pop(user_id) for user_id in list(self._pending)[:TOGETHER_MAX]]
                entries = [(each.user_id, each.last_seq, str(each.balance)) for each, _ in together]
                with telemetry.attached(together[0][1]):
                    await self._set(entries, self._settings.balance_ttl_ms)
            self._filled.clear()

    async def _set(self, entries: Sequence[tuple[str, int, str]], ttl_ms: int) -> None:
        """One run of the script for all; in a cluster, where users live in different slots, one for each."""
        step = 1 if self._settings.redis_cluster else TOGETHER_MAX
        try:
            for start in range(0, len(entries), step):
                chunk = entries[start : start + step]
                await self._script.run(
                    FAMILY,
                    keys=[self._redis.name(FAMILY, user_id) for user_id, _, _ in chunk],
                    args=[ttl_ms, *(part for _, seq, balance in chunk for part in (seq, balance))],
                    timeout_seconds=self._settings.gate_timeout_seconds,
                )
        except RedisUnavailable as error:
            log.debug("balances.not_cached", error=str(error))
