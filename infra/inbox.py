"""What a consumer group has handled, written in the transaction of the effect: so an event takes effect once."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from infra.postgres import Conn, load_queries

SQL = load_queries(Path(__file__).parent / "sql/queries.sql")


async def remember(conn: Conn, consumer: str, event_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Those of the events that are new to this consumer, with the time; from now on they are known."""
    rows = await conn.fetch(SQL["remember"], consumer, sorted(set(event_ids)))
    return {row["event_id"]: row["handled_at"] for row in rows}


async def revive(conn: Conn, consumer: str, event_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Those that this consumer had given up, with the time; from now on they are done."""
    rows = await conn.fetch(SQL["revive"], consumer, sorted(set(event_ids)))
    return {row["event_id"]: row["handled_at"] for row in rows}


async def bury(conn: Conn, consumer: str, event_id: UUID) -> datetime | None:
    """This consumer gives the event up. None: it had handled it before, and there is nothing to give up."""
    found: datetime | None = await conn.fetchval(SQL["bury"], consumer, event_id)
    return found
