"""The rows of the outbox: an event exists if and only if its change was committed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from uuid_utils.compat import uuid7

from infra import render, telemetry
from infra.events import Event
from infra.postgres import Conn, Database, load_queries

SQL = load_queries(Path(__file__).parents[1] / "sql/queries.sql")
REPLAY_ROWS_MAX = 1_000  # rows marked in one statement


@dataclass(frozen=True, slots=True)
class Row:
    """What is to be sent. `headers` are added to those the relay makes of the row, and win over them."""

    topic: str
    key: str
    payload: bytes
    headers: Mapping[str, object]


async def add(conn: Conn, events: Sequence[Event], at: datetime | None = None) -> None:
    """Write events in the caller's transaction, while it holds the locks of what they are about.

    `at` is the time of the change (default: the database's clock now).
    """
    if events:
        here = telemetry.inject()
        await add_rows(conn, [_row_of(event, here) for event in events], at)


async def add_rows(conn: Conn, rows: Sequence[Row], at: datetime | None = None) -> None:
    """The same for rows that are made by hand."""
    await conn.execute(
        SQL["add_outbox"],
        [uuid7() for _ in rows],
        [row.topic for row in rows],
        [row.key for row in rows],
        [row.payload for row in rows],
        [row.headers for row in rows],
        at,
    )


async def replay(database: Database, topic: str, since: datetime) -> int:
    """Have the relay send the events of a topic that were made at or after `since` once more, with their ids.

    Returns how many. :raises Unavailable: Postgres is not there.
    """
    count, last_id = 0, 0
    while True:
        async with database.connection() as conn:
            chunk = await conn.fetchrow(SQL["send_again"], topic, since, last_id, REPLAY_ROWS_MAX)
        if chunk is None or not chunk["rows"]:
            return count
        count, last_id = count + chunk["rows"], chunk["last_id"]


def _row_of(event: Event, here: Mapping[str, str]) -> Row:
    headers: dict[str, object] = {"ce_dataschema": event.message.DESCRIPTOR.full_name}
    if event.traceparent is None:
        headers |= here
    else:
        headers["traceparent"] = event.traceparent
        if event.tracestate:
            headers["tracestate"] = event.tracestate
    return Row(event.topic, event.key, render.to_json(event.message), headers)
