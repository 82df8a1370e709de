"""Carries events to a handler: at least once over the wire, once in effect, in the order of each key.

One poll is one transaction: inbox rows, effects, commit, and only then the offsets.
"""

import asyncio
import random
from collections.abc import Sequence

from infra import kafka
from infra.consumer.backlog import Backlog
from infra.consumer.lag import Watch
from infra.consumer.polls import Poll
from infra.consumer.work import Away, Handle, Work
from infra.kafka import KafkaAway, Source
from infra.logs import get_logger
from infra.postgres import Database
from infra.settings import WorkerSettings
from infra.telemetry import instruments

PAUSE_SECONDS = 0.1
DOUBLINGS_MAX = 6

log = get_logger(__name__)


class Consumer:
    """`run` for the life of the process, as a member of its group."""

    def __init__(
        self, settings: WorkerSettings, database: Database, *, group: str, topics: Sequence[str], handle: Handle
    ) -> None:
        """`handle(conn, records)` makes the effects of events that are new, in their order, inside the poll's
        transaction, and may return what is done after the commit. It may be called again with the same events.

        An exception rolls all of them back; the bad one is found, tried again, and given up after
        `consumer_attempts_max` tries.
        """
        self._settings, self._group = settings, group
        self._topics = [settings.topic_prefix + topic for topic in topics]
        self._backlog = Backlog(settings.topic_prefix)
        self._work = Work(settings, database, self._backlog, group, handle)
        self._watch = Watch(settings, group, self._backlog, self._work)
        self._away = 0  # how often in a row Postgres was not there

    async def run(self) -> None:
        """Consume until cancelled. A consumer that is stuck, or whose broker is away, is replaced by a new one."""
        failures = 0  # sources in a row that were of no use
        while True:
            started = asyncio.get_running_loop().time()
            try:
                async with Source(
                    self._settings, group=self._settings.topic_prefix + self._group, topics=self._topics
                ) as source:
                    log.info("consumer.started", group=self._group, topics=self._topics)
                    await self._consume(source)
            except KafkaAway as error:
                if not failures:
                    log.warning("consumer.replaced", group=self._group, error=kafka.error_type(error), what=str(error))
            lasted = asyncio.get_running_loop().time() - started > self._settings.consumer_stall_seconds
            failures = 0 if lasted else failures + 1
            await asyncio.sleep(self._pause(failures))

    async def _consume(self, source: Source) -> None:
        """:raises KafkaAway: the source is of no use any more."""
        self._backlog.clear()
        self._watch.begin(source)
        generation = source.generation
        while True:
            source.hold(self._away > 0 or len(self._backlog) >= self._settings.consumer_waiting_max)
            raws = await source.poll(self._wait_seconds())
            if source.generation != generation:
                generation = source.generation
                instruments.REBALANCES.labels(self._group).inc()
                self._backlog.clear()
            if raws:
                self._watch.moved()
            poll = Poll(self._backlog.add(raws), self._group)
            try:
                await self._work_off()
                if source.generation == generation:
                    await self._commit(source, poll)
            finally:
                poll.end()
            await self._watch.look()

    async def _work_off(self) -> None:
        """Work on what may be worked on now. While Postgres is away the rest waits, and nothing more is taken."""
        try:
            for entries in self._backlog.take(asyncio.get_running_loop().time()):
                await self._work.carry_out(entries)
        except Away as away:
            if not self._away:
                log.warning("consumer.paused", group=self._group, error=str(away))
            self._away += 1
        else:
            if self._away:
                log.info("consumer.resumed", group=self._group)
            self._away = 0

    async def _commit(self, source: Source, poll: Poll) -> None:
        offsets = self._backlog.offsets()
        if not offsets:
            return
        try:
            with poll.committing():
                if await source.commit(offsets):
                    self._backlog.stored(offsets)
        except KafkaAway as error:  # the next commit stores these too
            log.warning("consumer.commit_failed", group=self._group, error=kafka.error_type(error))
            self._watch.commit_failed()
        else:
            self._watch.committed()

    def _wait_seconds(self) -> float:
        """How long the next poll may wait for records."""
        if self._away:
            return self._pause(self._away)
        longest = self._settings.kafka_poll_wait_ms / 1000
        due = self._backlog.next_due()
        return longest if due is None else max(0.0, min(longest, due - asyncio.get_running_loop().time()))

    def _pause(self, failures: int) -> float:
        longest = self._settings.kafka_retry_seconds_max
        pause: float = min(PAUSE_SECONDS * 2 ** min(failures, DOUBLINGS_MAX), longest)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
