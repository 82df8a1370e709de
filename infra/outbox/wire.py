"""A row of the outbox as a Kafka record: CloudEvents 1.0, binary mode."""

from collections.abc import Sequence

from infra import telemetry
from infra.kafka import Outgoing, as_bytes
from infra.kafka.headers import bytes_of
from infra.postgres import Record
from infra.telemetry import Link, names

SPECVERSION = "1.0"
CONTENT_TYPE = "application/json"
# Headers of a row that are notes for the relay and never leave it.
RAW_KEY = "promo-raw-key"  # the key, where it is no text
FIRST_SEND = "promo-first-send"  # traceparent of the record this one repeats
_ABSENT = object()


def outgoing(row: Record, *, source: str, prefix: str, links: Sequence[Link], quiet: bool) -> Outgoing:
    """The record of a row. What the row's own headers say wins: a dead letter keeps the ids it came with."""
    headers = {
        "ce_specversion": SPECVERSION,
        "ce_id": str(row["event_id"]),
        "ce_source": source,
        "ce_type": row["topic"],
        "ce_subject": row["key"],
        "ce_time": row["created_at"].isoformat().replace("+00:00", "Z"),
        "content-type": CONTENT_TYPE,
        **row["headers"],
    }
    raw_key = headers.pop(RAW_KEY, _ABSENT)
    first_send = headers.pop(FIRST_SEND, None)
    trace = {name: str(headers.pop(name)) for name in ("traceparent", "tracestate") if headers.get(name)}
    sampled = bool(telemetry.span_context(context := telemetry.extract(trace)).trace_flags & 1)
    if not sampled:
        headers |= trace
    elif first_send:
        first = telemetry.span_context(telemetry.extract({"traceparent": first_send}))
        links = [*links, telemetry.link(first, "send")] if first.is_valid else links
    return Outgoing(
        topic=prefix + row["topic"],
        key=row["key"].encode() if raw_key is _ABSENT else bytes_of(raw_key),
        value=row["payload"],
        headers=as_bytes(headers),
        parent=context if sampled else None,
        links=links if sampled else (),
        attributes={
            names.MESSAGING_MESSAGE_ID: headers["ce_id"],
            names.MESSAGING_KAFKA_MESSAGE_KEY: row["key"],
            names.OUTBOX_AGE_MS: (row["at"] - row["created_at"]).total_seconds() * 1000,
        }
        if sampled
        else {},
        quiet=quiet,
    )
