"""A producer that heals itself: idempotent, acks of all replicas, and replaced as soon as it may be broken.

A producer that has seen a partition without a leader for longer than its time-out fails for ever, and one that
outlives a broker restarted empty is told acks of records that are nowhere. So a new one takes its place after any
error, a send that took too long, a failed probe, a lost connection, or an ack below the last one of its partition.
Whoever sends keeps what was not acked, and sends it again in its order.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from time import perf_counter
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from opentelemetry.context import Context
from opentelemetry.util.types import AttributeValue
from prometheus_client import Counter, Histogram

from infra import telemetry
from infra.kafka.ending import begin, within
from infra.kafka.headers import Headers
from infra.logs import get_logger
from infra.settings import Settings
from infra.telemetry import Link, Span, SpanKind, instruments, metrics, names

BATCH_BYTES_MAX = 262_144  # of one partition's records on their way together
REQUEST_BYTES_MAX = 1_048_576

UP = instruments.DEPENDENCY_UP.labels("kafka")

log = get_logger(__name__)


class KafkaAway(Exception):
    """No producer could be started: the broker is not there."""


class LogRegressed(KafkaAway):
    """A record was acked at or below the last acked offset of its partition: that log was lost."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Where a record is."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to send. With a sampled span in `parent` it gets a `send` span there, and the record goes on from it.

    `quiet`: a failure makes no span, because the record has told of an earlier one.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    parent: Context | None = None
    links: Sequence[Link] = ()
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    quiet: bool = False


class Producer:
    """One at a time sends: it belongs to one task."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._settings, self._client_id = settings, client_id
        self._producer: AIOKafkaProducer | None = None
        self._connections: dict[Any, Any] = {}
        self._last: dict[tuple[str, int], int] = {}  # the last acked offset of each partition

    async def send(self, records: Sequence[Outgoing]) -> list[Ack | Exception]:
        """One outcome for each record, in order. After the first that is no ack all may be sent again.

        Records of one key are sent in the given order, with the time-out `kafka_send_seconds` for all together.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.kafka_send_seconds
        sendings = [_Sending(record, self._client_id) for record in records]
        error: Exception = TimeoutError("not acked in time")
        try:
            async with asyncio.timeout_at(deadline):
                producer = await self._opened()
                for sending in sendings:
                    await sending.begin(producer)
        except (KafkaError, KafkaAway, OSError, TimeoutError) as failed:
            error = failed
        under_way = [sending.future for sending in sendings if sending.future is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        outcomes = [self._check(sending.outcome(error)) for sending in sendings]
        for sending, outcome in zip(sendings, outcomes, strict=True):
            sending.end(outcome)
        failure = next((each for each in outcomes if isinstance(each, Exception)), None)
        UP.set(failure is None)
        if failure is not None:
            await self._replace(failure)
        return [outcome if isinstance(outcome, Exception) else outcome[1] for outcome in outcomes]

    async def probe(self) -> bool:
        """Whether the broker answers; call it each second while nothing is sent. A producer that may be broken goes."""
        try:
            if self._producer is None:
                await self._opened()
            client = self._producer.client  # type: ignore[union-attr]  # opened: it is there
            await within(self._settings.kafka_stop_seconds, client.fetch_all_metadata())
        except (KafkaError, KafkaAway, OSError, TimeoutError) as error:
            UP.set(0)
            await self._replace(error)
            return False
        UP.set(1)
        if any(client._conns.get(node) is not each for node, each in self._connections.items()):
            await self._replace(KafkaAway("the connection was lost in between"))
            return False
        self._connections = dict(client._conns)
        return True

    async def close(self) -> None:
        """Leave the broker, at once."""
        producer, self._producer, self._connections = self._producer, None, {}
        if producer is not None:
            await _discard(producer, self._settings.kafka_stop_seconds)

    async def _opened(self) -> AIOKafkaProducer:
        """:raises KafkaAway: no broker answers."""
        if self._producer is not None:
            return self._producer
        settings = self._settings
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_brokers,
            client_id=self._client_id,
            enable_idempotence=True,
            acks="all",
            request_timeout_ms=settings.kafka_request_timeout_ms,
            metadata_max_age_ms=settings.kafka_metadata_max_age_ms,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=REQUEST_BYTES_MAX,
        )
        try:
            await begin(
                settings.kafka_start_seconds,
                producer.start(),
                partial(_discard, producer, settings.kafka_stop_seconds),
                lambda: producer.client._sync_task is not None,
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaAway(settings.kafka_brokers) from error
        log.info("kafka.producer_started", client_id=self._client_id)
        self._producer = producer
        return producer

    async def _replace(self, error: Exception) -> None:
        if self._producer is not None:
            log.warning("kafka.producer_replaced", client_id=self._client_id, error=type(error).__name__)
        await self.close()

    def _check(self, outcome: "tuple[str, Ack] | Exception") -> "tuple[str, Ack] | Exception":
        if isinstance(outcome, Exception):
            return outcome
        topic, ack = outcome
        place = (topic, ack.partition)
        if ack.offset <= self._last.get(place, -1):
            del self._last[place]
            return LogRegressed(f"{topic} {ack.partition} at {ack.offset}")
        self._last[place] = ack.offset
        return outcome


@cache
def _sent(topic: str, error: str) -> Counter:
    """Looked up once: that costs more than the count."""
    return instruments.MESSAGES_SENT.labels(topic, error)


@cache
def _send_seconds(topic: str, error: str) -> Histogram:
    return instruments.MESSAGING_SECONDS.labels("send", topic, "", error)


class _Sending:
    """One record on its way, its span and its time."""

    __slots__ = ("_client_id", "_span", "_started", "future", "record")

    def __init__(self, record: Outgoing, client_id: str) -> None:
        self.record, self._client_id = record, client_id
        self.future: asyncio.Future[Any] | None = None
        self._started = perf_counter()
        sampled = record.parent is not None and telemetry.span_context(record.parent).trace_flags & 1
        self._span = self._start_span(record, record.parent) if sampled else None

    async def begin(self, producer: AIOKafkaProducer) -> None:
        record, headers = self.record, self.record.headers
        if self._span is not None:
            headers = [*headers, *((name, text.encode()) for name, text in telemetry.inject(self._span).items())]
        self.future = await producer.send(record.topic, record.value, record.key, headers=headers)
        self.future.add_done_callback(self._acked)

    def outcome(self, error: Exception) -> tuple[str, Ack] | Exception:
        """Its ack; else its own error, or `error` where it has none."""
        future = self.future
        if future is None or not future.done() or future.cancelled():
            return error
        failed = future.exception()
        if isinstance(failed, Exception):
            return failed
        found = future.result()
        return self.record.topic, Ack(found.partition, found.offset)

    def end(self, outcome: tuple[str, Ack] | Exception) -> None:
        """Count it. A span that was acked has ended already; one that failed again is never ended, so never seen."""
        error = type(outcome).__name__ if isinstance(outcome, Exception) else ""
        _sent(self.record.topic, error).inc()
        if not error:
            return
        self._observe(error)
        if self._span is not None and not self.record.quiet and self._span.is_recording():
            telemetry.tell(self._span, outcome)  # type: ignore[arg-type]  # an error: it has a name
            self._span.end()

    def _start_span(self, record: Outgoing, parent: Context | None) -> Span:
        attributes: dict[str, AttributeValue] = {
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_NAME: "send",
            names.MESSAGING_OPERATION_TYPE: "send",
            names.MESSAGING_DESTINATION_NAME: record.topic,
            names.MESSAGING_CLIENT_ID: self._client_id,
            names.OPERATION: f"kafka.emit {record.topic}",
            **record.attributes,
        }
        return telemetry.start_span(
            f"send {record.topic}", SpanKind.PRODUCER, context=parent, attributes=attributes, links=record.links
        )

    def _acked(self, future: "asyncio.Future[Any]") -> None:
        if future.cancelled() or future.exception() is not None:
            return
        self._observe("")
        if self._span is not None:
            found = future.result()
            self._span.set_attribute(names.MESSAGING_DESTINATION_PARTITION_ID, str(found.partition))
            self._span.set_attribute(names.MESSAGING_KAFKA_OFFSET, found.offset)
            self._span.end()

    def _observe(self, error: str) -> None:
        child, seconds = _send_seconds(self.record.topic, error), perf_counter() - self._started
        metrics.observe(child, seconds, self._span) if self._span else child.observe(seconds)


async def _discard(producer: AIOKafkaProducer, seconds: float) -> None:
    """Stop without flushing: what is pending is sent again by the next one. `producer.stop()` would hang on it."""
    producer._closed = True
    sender = producer._sender.sender_task
    if sender is not None:
        sender.cancel()
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        await within(seconds, producer.client.close())
    if sender is not None:
        await asyncio.wait({sender}, timeout=seconds)
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await within(seconds, producer.client.close())  # a connection the sender was just opening
