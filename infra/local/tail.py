"""`promo events tail`: every event as it is sent, with its trace id."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from infra.local.failures import StartFailed


@dataclass(frozen=True)
class Record:
    """One event as a person or a script wants to see it."""

    topic: str
    partition: int
    offset: int
    key: str
    event_id: str
    time: str
    trace_id: str
    value: Any

    def as_json(self) -> str:
        return orjson.dumps(vars(self)).decode()

    def as_text(self) -> str:
        value = orjson.dumps(self.value).decode()
        return f"{self.time}  {self.topic:<18} {self.key:<12} trace {self.trace_id or '-':<32}  {value}"


async def tail(brokers: str, topics: Sequence[str], *, from_beginning: bool) -> AsyncIterator[Record]:
    """The events of `topics` from now on, or from the oldest kept one, for ever. No offsets are committed.

    :raises StartFailed: the broker cannot be reached.
    """
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=brokers,
        auto_offset_reset="earliest" if from_beginning else "latest",
        enable_auto_commit=False,
    )
    try:
        await consumer.start()
    except (KafkaError, OSError) as error:
        await consumer.stop()
        raise StartFailed(f"kafka at {brokers}: {error}") from error
    try:
        async for record in consumer:
            yield parse(record)
    finally:
        await consumer.stop()


def parse(record: Any) -> Record:
    """A Kafka record as an event; what is no JSON is shown as text."""
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    try:
        value = orjson.loads(record.value or b"null")
    except orjson.JSONDecodeError:
        value = record.value.decode(errors="replace")
    _, _, trace = headers.get("traceparent", "").partition("-")
    sent = datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat()
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=(record.key or b"").decode(errors="replace"),
        event_id=headers.get("ce_id", ""),
        time=headers.get("ce_time", sent),
        trace_id=trace.partition("-")[0],
        value=value,
    )
