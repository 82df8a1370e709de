"""What must always be true of the data: a name, a sentence, and a query that returns what breaks it."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from infra import postgres
from infra.jobs import Job
from infra.logs import get_logger
from infra.postgres import Database, Query, Record
from infra.settings import Settings
from infra.telemetry import instruments

ROWS_SHOWN_MAX = 10

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Invariant:
    """`query` returns one row for each violation, whose columns say which; no row: all is well."""

    name: str
    sentence: str
    query: Query


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold: how often, and the first rows that show it."""

    name: str
    sentence: str
    violations: int
    rows: list[dict[str, object]]


def database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    """A pool of one for checks: they read whole tables, so they may take longer and must not take traffic's place."""
    longer = {
        "statement_timeout_ms": settings.invariant_timeout_ms,
        "postgres_command_seconds": settings.invariant_timeout_ms / 1000 + 1,
        "pool_acquire_seconds": settings.postgres_connect_seconds,
    }
    return postgres.open(settings.model_copy(update=longer), name="invariants", size_max=1)


async def check(database: Database, invariants: Sequence[Invariant]) -> list[Broken]:
    """The invariants that do not hold now. :raises Unavailable: Postgres is not there, or a check took too long."""
    broken = []
    for invariant in invariants:
        async with database.connection() as conn:
            rows = await conn.fetch(invariant.query)
        instruments.INVARIANT_VIOLATIONS.labels(invariant.name).set(len(rows))
        instruments.INVARIANT_CHECKED.labels(invariant.name).set_to_current_time()
        if rows:
            broken.append(Broken(invariant.name, invariant.sentence, len(rows), _shown(rows)))
    return broken


def job(settings: Settings, database: Database, invariants: Sequence[Invariant]) -> Job:
    """Checks all invariants every `invariant_every_seconds`; what is broken is an error in the log and a gauge."""

    async def run() -> None:
        for broken in await check(database, invariants):
            log.error("invariant.broken", invariant=broken.name, violations=broken.violations, rows=broken.rows)

    return Job(
        "invariants", settings.invariant_every_seconds, run, timeout_seconds=settings.invariant_timeout_ms / 1000
    )


def _shown(rows: Sequence[Record]) -> list[dict[str, object]]:
    return [dict(row.items()) for row in rows[:ROWS_SHOWN_MAX]]
