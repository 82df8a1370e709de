"""Records a consumer group gave up on: kept beside its data, told on `<topic>.dlq`, and handed to it once more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from infra import inbox, outbox, telemetry
from infra.kafka import as_json
from infra.kafka.headers import json_of
from infra.outbox.wire import FIRST_SEND, RAW_KEY
from infra.postgres import Conn, Database, Record, load_queries
from infra.settings import Settings
from infra.telemetry import names

SQL = load_queries(Path(__file__).parent / "sql/queries.sql")
SUFFIX = ".dlq"
REPLAY_GROUP = "promo-replay-group"
NOTES = (REPLAY_GROUP, RAW_KEY, FIRST_SEND)  # headers that are instructions of ours: nobody else may give them
LISTED_MAX = 1_000
REPLAYED_AT_ONCE = 100
# With the headers that say why, a record must still fit into a topic: of a larger one `.dlq` is told a part, and it
# cannot be replayed.
SENT_BYTES_MAX = 1_000_000
HEADER_BYTES_MAX = 2_048
HEADERS_MAX = 16


@dataclass(frozen=True, slots=True)
class Letter:
    """One record that was given up, as a person or a script wants to see it."""

    event_id: UUID
    topic: str
    partition: int
    offset: int
    key: str
    value: str
    reason: str
    error: str
    tries: int
    trace_id: str
    created_at: datetime
    replayed_at: datetime | None

    def __str__(self) -> str:
        replayed = f"  replayed {self.replayed_at:%Y-%m-%d %H:%M:%S}" if self.replayed_at else ""
        return (
            f"{self.created_at:%Y-%m-%d %H:%M:%S}  {self.event_id}  {self.topic}/{self.partition}/{self.offset}  "
            f"key {self.key}  {self.reason}: {self.error} ({self.tries} tries)  trace {self.trace_id or '-'}{replayed}"
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """A record and why it was given up. `traceparent`: of its last processing."""

    consumer: str
    event_id: UUID
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    reason: str
    error: str
    tries: int
    traceparent: str | None = None


async def give_up(conn: Conn, failure: Failure) -> bool:
    """In the caller's transaction: the inbox says dead, the letter is kept, and `<topic>.dlq` will be told.

    False: the event was handled before, and there is nothing to give up.
    """
    at = await inbox.bury(conn, failure.consumer, failure.event_id)
    if at is None:
        return False
    headers = as_json((name, value) for name, value in failure.headers if name not in NOTES)
    headers["ce_id"] = str(failure.event_id)
    await conn.execute(
        SQL["save_dead_letter"], failure.consumer, failure.event_id, failure.topic, failure.partition, failure.offset,
        failure.key, failure.value, headers, failure.reason, failure.error, failure.tries, at,
    )  # fmt: skip
    value = failure.value or b""
    short = [(name, text) for name, text in headers.items() if len(str(text)) <= HEADER_BYTES_MAX][:HEADERS_MAX]
    notes = {
        **dict(short),
        "dlq-reason": failure.reason,
        "dlq-error": failure.error,
        "dlq-tries": str(failure.tries),
        "dlq-group": failure.consumer,
        "dlq-topic": failure.topic,
        "dlq-partition": str(failure.partition),
        "dlq-offset": str(failure.offset),
        **({"dlq-truncated": str(len(value))} if len(value) > SENT_BYTES_MAX else {}),
        **_trace(headers, failure.traceparent),
    }
    await outbox.add_rows(conn, [_row(failure.topic + SUFFIX, failure.key, value[:SENT_BYTES_MAX], notes)], at)
    return True


async def list_letters(database: Database, topic: str, group: str) -> list[Letter]:
    """The dead letters of a topic and a group, the oldest first, a thousand at most. :raises Unavailable:"""
    async with database.connection() as conn:
        rows = await conn.fetch(SQL["list_dead_letters"], topic, group, LISTED_MAX)
    return [_letter(row) for row in rows]


async def replay(settings: Settings, database: Database, topic: str, group: str) -> int:
    """Hand the dead letters of a topic to their group once more; no other group acts on them. Returns how many.

    They go through the outbox: the running relay of this database sends them. :raises Unavailable:
    """
    count = 0
    with telemetry.root("dlq replay", {names.OPERATION: "dlq replay", names.MESSAGING_CONSUMER_GROUP_NAME: group}):
        while True:
            async with database.transaction() as conn:
                letters = await conn.fetch(SQL["take_dead_letters"], topic, group, REPLAYED_AT_ONCE, SENT_BYTES_MAX)
                if letters:
                    await outbox.add_rows(conn, [_again(letter, topic, group) for letter in letters])
            count += len(letters)
            if len(letters) < REPLAYED_AT_ONCE:
                return count


def _again(letter: Record, topic: str, group: str) -> outbox.Row:
    headers = letter["headers"]
    again = {**headers, REPLAY_GROUP: group, **_trace(headers, None)}
    return _row(topic, letter["key"], letter["value"] or b"", again)


def _trace(headers: Mapping[str, object], traceparent: str | None) -> dict[str, object]:
    """What is sent now hangs under what happens now, with a link to the first sending."""
    here = {"traceparent": traceparent} if traceparent else telemetry.inject()
    first = headers.get("traceparent")
    return {**here, **({FIRST_SEND: first} if first else {})}


def _row(topic: str, key: bytes | None, value: bytes, headers: Mapping[str, object]) -> outbox.Row:
    clean = json_of(key)
    if isinstance(clean, str):
        return outbox.Row(topic, clean, value, headers)
    return outbox.Row(topic, "", value, {**headers, RAW_KEY: clean})


def _letter(row: Record) -> Letter:
    headers: Mapping[str, object] = row["headers"]
    _, _, trace = str(headers.get("traceparent", "")).partition("-")
    return Letter(
        event_id=row["event_id"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["record_offset"],
        key=(row["key"] or b"").decode("utf-8", "replace"),
        value=(row["value"] or b"").decode("utf-8", "replace"),
        reason=row["reason"],
        error=row["error"],
        tries=row["tries"],
        trace_id=trace.partition("-")[0],
        created_at=row["created_at"],
        replayed_at=row["replayed_at"],
    )
