"""What traces, metrics and logs say of a record that is processed.

A poll is one transaction for many traces: its statements hang under the first sampled record's `process` span and are
copied under each other sampled one, so that every trace ends with its own writes.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import cache
from time import perf_counter
from typing import NamedTuple
from uuid import UUID

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.types import AttributeValue
from prometheus_client import Counter, Histogram

from infra import telemetry
from infra.consumer.backlog import Entry
from infra.consumer.record import Record
from infra.logs import get_logger
from infra.telemetry import Span, SpanKind, instruments, metrics, names

SAMPLED = ("1", "3", "5", "7", "9", "b", "d", "f")  # the last digit of a traceparent whose sampled flag is set
OK, ERROR = "ok", "error"

log = get_logger(__name__)


class _Meters(NamedTuple):
    consumed: Counter
    duplicates: Counter
    delivery: Histogram


@cache
def _meters(topic: str, group: str) -> _Meters:
    """Looked up once: that costs more than the count."""
    return _Meters(
        instruments.MESSAGES_CONSUMED.labels(topic, group, ""),
        instruments.INBOX_DUPLICATES.labels(topic, group),
        instruments.EVENT_DELIVERY_SECONDS.labels(topic, group),
    )


@cache
def _process_seconds(topic: str, group: str, error: str) -> Histogram:
    return instruments.MESSAGING_PROCESS_SECONDS.labels("process", topic, group, error)


class Processing:
    """The spans of one run of a group of records."""

    def __init__(self, entries: Sequence[Entry], group: str) -> None:
        self._entries, self._group = entries, group
        self._started = perf_counter()
        self._spans: dict[Entry, Span] = {}
        self._kept: list[ReadableSpan] = []
        for entry in entries:
            entry.runs += 1
            trace = entry.headers.get("traceparent", "")
            if trace.endswith(SAMPLED):
                span = self._span(entry)
                if span.is_recording():
                    self._spans[entry] = span

    def records(self) -> list[tuple[Entry, Record]]:
        """The events, each with the trace context that what follows from it belongs under."""
        return [(entry, self._with_trace(entry, entry.record)) for entry in self._entries if entry.record is not None]

    def traceparent(self, entry: Entry) -> str | None:
        """What follows from this record belongs under it."""
        span = self._spans.get(entry)
        return telemetry.traceparent(span.get_span_context()) if span else entry.headers.get("traceparent")

    def under_leader(self) -> AbstractContextManager[object]:
        """Makes the first sampled record's span the current one."""
        leader = next(iter(self._spans.values()), None)
        return telemetry.attached(telemetry.context_of(leader) if leader else telemetry.empty_context())

    def keeping(self) -> AbstractContextManager[list[ReadableSpan]]:
        """Collects the statements, where other records' traces want them too."""
        return telemetry.keeping() if len(self._spans) > 1 else nullcontext(self._kept)

    def done(self, handled: Mapping[UUID, datetime], kept: Sequence[ReadableSpan]) -> None:
        """The transaction was committed. `handled` are those that were new, with the time."""
        followers = list(self._spans.values())[1:]
        for follower in followers:
            telemetry.copy(kept, follower)
        share = (perf_counter() - self._started) / len(self._entries)
        for entry in self._entries:
            self._done(entry, handled.get(entry.event_id), share)

    def failed(self, error: BaseException) -> None:
        """The transaction was rolled back: an error for the record that was alone, or for the first of many."""
        share = (perf_counter() - self._started) / len(self._entries)
        for place, (entry, span) in enumerate(self._spans.items()):
            if place == 0 or len(self._entries) == 1:
                telemetry.tell(span, error)
                span.set_attribute(names.OUTCOME, ERROR)
            span.end()
            self._observe(entry, share, type(error).__name__, span)

    def _done(self, entry: Entry, at: datetime | None, share: float) -> None:
        span = self._spans.get(entry)
        self._observe(entry, share, "", span)
        meters = _meters(entry.raw.topic, self._group)
        meters.consumed.inc()
        if at is None:
            meters.duplicates.inc()
        elif entry.record is not None:
            seconds = max(0.0, (at - entry.record.time).total_seconds())
            metrics.observe(meters.delivery, seconds, span) if span else meters.delivery.observe(seconds)
            if span:
                span.set_attribute(names.QUEUE_TIME_MS, seconds * 1000)
        if span:
            span.set_attribute(names.OUTCOME, OK)
            if at is None:
                span.set_attribute(names.DUPLICATE, True)
            span.end()
        self._log(entry, share, duplicate=at is None)

    def _observe(self, entry: Entry, seconds: float, error: str, span: Span | None) -> None:
        child = _process_seconds(entry.raw.topic, self._group, error)
        metrics.observe(child, seconds, span) if span else child.observe(seconds)

    def _log(self, entry: Entry, seconds: float, *, duplicate: bool) -> None:
        if not log.is_enabled_for(logging.INFO):
            return
        context = self._spans[entry].get_span_context() if entry in self._spans else None
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context else {}
        log.info(
            "event.processed",
            topic=entry.raw.topic,
            partition=entry.raw.partition,
            offset=entry.raw.offset,
            group=self._group,
            event_id=str(entry.event_id),
            attempt=entry.attempts + 1,
            outcome="duplicate" if duplicate else OK,
            duration_ms=round(seconds * 1000, 3),
            **ids,
        )

    def _with_trace(self, entry: Entry, record: Record) -> Record:
        span = self._spans.get(entry)
        if span is None:
            return record
        trace = telemetry.inject(span)
        return replace(record, traceparent=trace.get("traceparent"), tracestate=trace.get("tracestate"))

    def _span(self, entry: Entry) -> Span:
        context = telemetry.extract(entry.headers)
        raw = entry.raw
        attributes: dict[str, AttributeValue] = {
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_NAME: "process",
            names.MESSAGING_OPERATION_TYPE: "process",
            names.MESSAGING_DESTINATION_NAME: raw.topic,
            names.MESSAGING_DESTINATION_PARTITION_ID: str(raw.partition),
            names.MESSAGING_KAFKA_OFFSET: raw.offset,
            names.MESSAGING_CONSUMER_GROUP_NAME: self._group,
            names.MESSAGING_MESSAGE_ID: str(entry.event_id),
            names.OPERATION: f"kafka.consume {raw.topic}",
        }
        if isinstance(entry.key[1], bytes):
            attributes[names.MESSAGING_KAFKA_MESSAGE_KEY] = entry.key[1].decode("utf-8", "replace")
        if entry.attempts:
            attributes[names.ATTEMPT] = entry.attempts + 1
        if entry.runs > 1:
            attributes[names.BATCH_TRY] = entry.runs
        links = [telemetry.link(telemetry.span_context(context), "send")]
        return telemetry.start_span(
            f"process {raw.topic}", SpanKind.CONSUMER, context=context, attributes=attributes, links=links
        )
