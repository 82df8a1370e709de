"""One transaction for a group of records: inbox rows, effects, commit; a bad one is found by halving.

A record that fails alone is tried a bounded number of times, and then given up in one transaction. While Postgres is
away nothing is counted; a row that somebody else holds is no fault of the record either.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from infra import dead_letters, inbox, sentry
from infra.consumer.backlog import Backlog, Entry
from infra.consumer.record import REPLAY_GROUP, BadRecord, Record
from infra.consumer.tracing import Processing
from infra.logs import get_logger
from infra.postgres import Conn, Database, Failure, blocked, classify, error_type
from infra.settings import WorkerSettings
from infra.telemetry import instruments, redact

AfterCommit: TypeAlias = Callable[[], Awaitable[None]]
Handle: TypeAlias = Callable[[Conn, Sequence[Record]], Awaitable[AfterCommit | None]]

ERROR_CHARACTERS_MAX = 500
RETRY_FACTOR = 3  # 0.2, 0.6, 1.8, 5.4 s: five tries in ten seconds
RETRY_EXPONENT_MAX = 3
FAILED = "failed"

log = get_logger(__name__)


class Away(Exception):
    """Postgres, or what the handler needs, is not there; the records wait and nothing is counted."""


class HandlerTooSlow(Exception):
    """The handler did not end in time."""


class Work:
    """What is done with records; the backlog says with which."""

    def __init__(
        self, settings: WorkerSettings, database: Database, backlog: Backlog, group: str, handle: Handle
    ) -> None:
        self._settings, self._database, self._backlog = settings, database, backlog
        self._group, self._handle = group, handle
        self.at: tuple[datetime, float] | None = None  # the database's clock, and the loop's at that moment

    async def carry_out(self, entries: Sequence[Entry]) -> None:
        """Work on these records until each is done or waits for its next try. :raises Away:"""
        groups = [[entry] for entry in entries if entry.bad is not None or entry.error is not None]
        groups.append([entry for entry in entries if entry.bad is None and entry.error is None])
        groups.reverse()
        while groups:
            group = [entry for entry in groups.pop() if self._backlog.may_run(entry)]
            if not group:
                continue
            processing = Processing(group, self._group)
            if group[0].bad is not None and group[0].headers.get(REPLAY_GROUP, self._group) == self._group:
                await self._give_up(group[0], group[0].bad, processing)
            else:
                groups += reversed(await self._attempt(group, processing))

    async def _attempt(self, group: list[Entry], processing: Processing) -> list[list[Entry]]:
        """One transaction; what is returned is to be run next, in that order."""
        try:
            with processing.keeping() as kept, processing.under_leader():
                handled, after = await self._transact(processing)
        except Exception as error:
            return await self._after(group, error, processing)
        processing.done(handled, kept)
        for entry in group:
            self._backlog.done(entry)
        if after is not None:
            await self._tell(after)
        return []

    async def _transact(self, processing: Processing) -> tuple[dict[UUID, datetime], AfterCommit | None]:
        pairs = processing.records()
        replays = [entry.event_id for entry, _ in pairs if entry.headers.get(REPLAY_GROUP) == self._group]
        usual = [entry.event_id for entry, _ in pairs if REPLAY_GROUP not in entry.headers]
        try:
            async with asyncio.timeout(self._settings.consumer_handler_seconds):
                async with self._database.transaction() as conn:
                    handled = await inbox.remember(conn, self._group, usual) if usual else {}
                    if replays:
                        handled |= await inbox.revive(conn, self._group, replays)
                    todo = dict(handled)  # of two records of one event in this group the first takes effect
                    records = [record for _, record in pairs if todo.pop(record.event_id, None)]
                    after = await self._handle(conn, records) if records else None
        except TimeoutError as late:
            raise HandlerTooSlow from late
        for at in handled.values():
            self.at = (at, asyncio.get_running_loop().time())
            break
        return handled, after

    async def _tell(self, after: AfterCommit) -> None:
        """What follows a commit is a repair or a hint: it may fail, and the effect stands."""
        try:
            async with asyncio.timeout(self._settings.consumer_handler_seconds):
                await after()
        except Exception as error:
            log.exception("consumer.after_commit_failed", group=self._group)
            sentry.capture(error, group=self._group)

    async def _after(self, group: list[Entry], error: Exception, processing: Processing) -> list[list[Entry]]:
        stuck = blocked(error)
        if not stuck and not isinstance(error, HandlerTooSlow) and classify(error) is Failure.AGAIN:
            processing.failed(error)
            raise Away(error_type(error.__cause__ or error)) from error
        if len(group) > 1:
            processing.failed(error)
            middle = len(group) // 2
            return [group[:middle], group[middle:]]
        await self._failed(group[0], error, processing, counts=not stuck)
        return []

    async def _failed(self, entry: Entry, error: Exception, processing: Processing, *, counts: bool) -> None:
        """A record failed alone: it waits for its next try, or is given up."""
        entry.attempts += counts
        entry.error = error
        instruments.EVENT_RETRIES.labels(entry.raw.topic, self._group, type(error).__name__).inc()
        with processing.under_leader():
            log.warning("event.failed", attempt=entry.attempts, error=type(error).__name__, **self._facts(entry))
        if isinstance(error, BadRecord) or entry.attempts >= self._settings.consumer_attempts_max:
            await self._give_up(entry, error, processing)
            return
        processing.failed(error)
        tries = entry.attempts if counts else entry.runs
        pause = self._settings.consumer_retry_seconds * RETRY_FACTOR ** min(tries - 1, RETRY_EXPONENT_MAX)
        self._backlog.wait(entry, asyncio.get_running_loop().time() + pause)

    async def _give_up(self, entry: Entry, error: Exception, processing: Processing) -> None:
        """One transaction: the inbox says dead, the letter is kept, `.dlq` will be told. :raises Away:"""
        entry.bad = error if isinstance(error, BadRecord) else BadRecord(FAILED, _text(error))
        raw = entry.raw
        failure = dead_letters.Failure(
            consumer=self._group,
            event_id=entry.event_id,
            topic=entry.topic,
            partition=raw.partition,
            offset=raw.offset,
            key=raw.key,
            value=raw.value,
            headers=raw.headers,
            reason=entry.bad.reason,
            error=str(entry.bad),
            tries=max(1, entry.attempts),
            traceparent=processing.traceparent(entry),
        )
        try:
            with processing.under_leader():
                async with self._database.transaction() as conn:
                    given_up = await dead_letters.give_up(conn, failure)
                if given_up:
                    self._mourn(entry, error)
        except Exception as failed:
            if classify(failed) is Failure.AGAIN:
                raise Away(error_type(failed.__cause__ or failed)) from failed
            raise
        finally:
            processing.failed(error)
        self._backlog.done(entry)

    def _mourn(self, entry: Entry, error: Exception) -> None:
        reason = entry.bad.reason if entry.bad else FAILED
        instruments.DEAD_LETTERS.labels(entry.raw.topic, self._group, reason).inc()
        log.error("event.given_up", reason=reason, attempt=entry.attempts, **self._facts(entry))
        sentry.capture(
            error, group=self._group, topic=entry.raw.topic, partition=entry.raw.partition, offset=entry.raw.offset
        )

    def _facts(self, entry: Entry) -> dict[str, object]:
        raw = entry.raw
        return {
            "topic": raw.topic,
            "partition": raw.partition,
            "offset": raw.offset,
            "group": self._group,
            "event_id": str(entry.event_id),
        }


def _text(error: Exception) -> str:
    """What the letter says of the error: its name and words, without secrets, and as Postgres takes a text."""
    text = redact.text(f"{type(error).__name__}: {error}".replace("\0", ""))[:ERROR_CHARACTERS_MAX]
    return text.encode("utf-8", "replace").decode()
