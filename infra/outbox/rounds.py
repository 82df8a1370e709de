"""One round of a relay: read the oldest unsent rows, send them, mark what was acked."""

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import Histogram

from infra import sentry, telemetry
from infra.errors import Unavailable
from infra.kafka import Ack, Outgoing, Producer
from infra.logs import get_logger
from infra.outbox.rows import SQL
from infra.outbox.wire import outgoing
from infra.postgres import Conn, Failure, Query, Record, classify
from infra.settings import WorkerSettings
from infra.telemetry import instruments, names

log = get_logger(__name__)


class Line:
    """A connection that two tasks share, one statement at a time."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._turn = asyncio.Lock()

    async def fetch(self, query: Query, *args: Any) -> list[Record]:
        """All rows. :raises Unavailable: the connection is gone."""
        async with self._turn:
            try:
                return await self._conn.fetch(query, *args)
            except Exception as error:
                if classify(error) is Failure.AGAIN:
                    raise Unavailable() from error
                raise

    async def fetchval(self, query: Query, *args: Any) -> Any:
        """The first column of the first row. :raises Unavailable: the connection is gone."""
        return (await self.fetch(query, *args))[0][0]


class Rounds:
    """The rounds of one relay, and its producer. `full`: more rows wait; `failures`: rounds in a row that failed."""

    def __init__(self, settings: WorkerSettings, source: str) -> None:
        self.full = False
        self.failures = 0
        self.used = 0.0  # when the producer was asked something, on the loop's clock
        self._settings, self._source = settings, source
        self._producer = Producer(settings, f"{settings.service_name}-relay")
        self._told: set[int] = set()  # rows whose failure has made a span

    async def once(self, line: Line) -> int:
        """How many rows were marked, which are those before the first failure. :raises Unavailable:"""
        if not self.full and not await line.fetchval(SQL["unsent_exists"]):
            return 0  # an empty round has no span
        with telemetry.root("relay outbox", {names.OPERATION: "relay outbox"}) as span:
            rows = await line.fetch(SQL["read_unsent"], self._settings.relay_size_max)
            link = telemetry.link(span.get_span_context(), "relay")
            outcomes = await self._producer.send([self._outgoing(row, link) for row in rows])
            self.used = asyncio.get_running_loop().time()
            sent = next((place for place, each in enumerate(outcomes) if not isinstance(each, Ack)), len(rows))
            if sent:
                await self._mark(line, rows[:sent])
        self._judge(rows, outcomes)
        self.full = sent == self._settings.relay_size_max
        return sent

    async def probe(self) -> None:
        """Have the producer look whether it still works."""
        self.used = asyncio.get_running_loop().time()
        await self._producer.probe()

    async def close(self) -> None:
        """Leave the broker."""
        await self._producer.close()

    def _outgoing(self, row: Record, link: telemetry.Link) -> Outgoing:
        prefix, quiet = self._settings.topic_prefix, row["id"] in self._told
        return outgoing(row, source=self._source, prefix=prefix, links=[link], quiet=quiet)

    async def _mark(self, line: Line, rows: Sequence[Record]) -> None:
        at = await line.fetchval(SQL["mark_sent"], [row["id"] for row in rows])
        delays = {topic: self._delay(topic) for topic in {row["topic"] for row in rows}}
        for row in rows:
            delays[row["topic"]].observe((at - row["created_at"]).total_seconds())

    def _delay(self, topic: str) -> Histogram:
        return instruments.OUTBOX_DELAY_SECONDS.labels(self._settings.topic_prefix + topic)

    def _judge(self, rows: Sequence[Record], outcomes: Sequence[Ack | Exception]) -> None:
        """An outage is told once, when it begins, and when it ends."""
        failed = [(row["id"], each) for row, each in zip(rows, outcomes, strict=True) if isinstance(each, Exception)]
        self._told = {id for id, _ in failed}
        if failed:
            if not self.failures:
                log.warning("relay.broker_away", error=type(failed[0][1]).__name__, rows=len(failed))
                sentry.capture(failed[0][1], task="relay")
            self.failures += 1
        elif self.failures:
            log.info("relay.broker_back", rounds=self.failures)
            self.failures = 0
