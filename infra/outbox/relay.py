"""Sends the rows of the outbox, in their order, by one relay per database.

The active one holds an advisory lock on a connection of its own, and reads and marks on that connection: who has lost
the lock marks nothing any more. While a broker is away rows wait, and nobody else notices.
"""

import asyncio
import contextlib
import random

from infra.errors import Refused
from infra.logs import get_logger
from infra.outbox.rounds import Line, Rounds
from infra.outbox.rows import SQL
from infra.postgres import Database
from infra.settings import WorkerSettings
from infra.telemetry import instruments

LOCK = 0x6F7574626F78  # the key of the advisory lock, the same in every database
PAUSE_SECONDS = 0.05  # before the first try after a failure
DOUBLINGS_MAX = 6

log = get_logger(__name__)


class Relay:
    """`run` for the life of the process; `wake` after a commit, so that its rows leave at once."""

    def __init__(self, settings: WorkerSettings, database: Database, *, source: str) -> None:
        """`source` is the `ce_source` of this database's events: /promo/coupon-service."""
        self._settings, self._database = settings, database
        self._rounds = Rounds(settings, source)
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Rows were committed. A hint: the table is the truth, and is looked at anyway."""
        self._woken.set()

    async def run(self) -> None:
        """Send while this process has the lock, and else try for it each second."""
        try:
            while True:
                try:
                    await self._lead()
                except* Refused as errors:
                    log.warning("relay.interrupted", error=str(errors.exceptions[0]))
                await asyncio.sleep(self._settings.relay_lock_retry_seconds)
        finally:
            await self._rounds.close()

    async def relay_once(self) -> int:
        """Send the oldest unsent rows and mark what was acked before the first failure. Returns how many were marked.

        It takes a pooled connection and no lock: for a test, or for the only relay there is. `close` afterwards.

        :raises Unavailable: Postgres is not there.
        """
        async with self._database.connection() as conn:
            return await self._rounds.once(Line(conn))

    async def close(self) -> None:
        """Leave the broker; `run` does it itself."""
        await self._rounds.close()

    async def _lead(self) -> None:
        """:raises Unavailable: (in a group) the connection was lost, and with it the lock."""
        idle_ms = str(self._settings.relay_idle_session_timeout_ms)  # so that a frozen leader loses its lock
        async with self._database.dedicated(idle_session_timeout=idle_ms) as conn:
            line = Line(conn)
            while not await line.fetchval(SQL["lead_outbox"], LOCK):
                await asyncio.sleep(self._settings.relay_lock_retry_seconds)
                await self._rounds.probe()  # its producer is warm when its time comes
            log.info("relay.active")
            instruments.OUTBOX_RELAY_ACTIVE.set(1)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._keep(line))
                    tasks.create_task(self._measure())
                    tasks.create_task(self._serve(line))
            finally:
                instruments.OUTBOX_RELAY_ACTIVE.set(0)
                instruments.OUTBOX_PENDING.set(0)
                instruments.OUTBOX_OLDEST_SECONDS.set(0)

    async def _keep(self, line: Line) -> None:
        """Ping, whatever the rounds wait for: so the lock is kept, and its loss is noticed."""
        while True:
            await asyncio.sleep(self._settings.relay_ping_seconds)
            if await line.fetchval(SQL["unsent_exists"]):
                self.wake()

    async def _measure(self) -> None:
        while True:
            with contextlib.suppress(Refused):
                async with self._database.connection() as conn:
                    found = await conn.fetchrow(SQL["measure_outbox"])
                if found is not None:
                    instruments.OUTBOX_PENDING.set(found["pending"])
                    instruments.OUTBOX_OLDEST_SECONDS.set(found["oldest_seconds"])
            await asyncio.sleep(self._settings.relay_measure_seconds)

    async def _serve(self, line: Line) -> None:
        rounds = self._rounds
        rounds.full = False
        try:
            while True:
                self._woken.clear()
                await rounds.once(line)
                if rounds.failures:
                    await asyncio.sleep(self._pause())
                elif not rounds.full:
                    await self._rest()
        except asyncio.CancelledError:
            await self._finish(line)
            raise

    async def _rest(self) -> None:
        """Until there may be rows. A producer that rests is probed each second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.relay_poll_seconds):
                await self._woken.wait()
                return
        if asyncio.get_running_loop().time() - self._rounds.used >= self._settings.relay_ping_seconds:
            await self._rounds.probe()

    async def _finish(self, line: Line) -> None:
        """The process ends: what was just committed leaves too, if it can at once."""
        with contextlib.suppress(Refused, TimeoutError):
            async with asyncio.timeout(self._settings.relay_drain_seconds):
                while not self._rounds.failures and await self._rounds.once(line):
                    pass

    def _pause(self) -> float:
        longest = self._settings.kafka_retry_seconds_max
        pause: float = min(PAUSE_SECONDS * 2 ** min(self._rounds.failures, DOUBLINGS_MAX), longest)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
