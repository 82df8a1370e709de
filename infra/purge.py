"""Forgets what was kept long enough, in small chunks that do not hurt traffic."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from infra.jobs import Job
from infra.logs import get_logger
from infra.postgres import Database, Query, load_queries
from infra.settings import WorkerSettings

SQL = load_queries(Path(__file__).parent / "sql/queries.sql")

log = get_logger(__name__)


def job(settings: WorkerSettings, database: Database, *, commands: bool = True) -> Job:
    """Deletes old commands, sent outbox rows, inbox rows and replayed dead letters; for `process.background`.

    Without `commands` in a database that has no such table.
    """
    return Job("purge", settings.purge_every_seconds, Purge(settings, database, commands=commands).run)


class Purge:
    """One run deletes all that is due, as long as the job's time lasts."""

    def __init__(self, settings: WorkerSettings, database: Database, *, commands: bool = True) -> None:
        self._settings, self._database = settings, database
        of_commands = {SQL["purge_commands"]: settings.command_retention_days} if commands else {}
        self._days: Mapping[Query, int] = of_commands | {
            SQL["purge_outbox"]: settings.outbox_retention_days,
            SQL["purge_inbox"]: settings.inbox_retention_days,
            SQL["purge_dead_letters"]: settings.dead_letter_retention_days,
        }

    async def run(self) -> int:
        """How many rows were deleted. :raises Unavailable: Postgres is not there."""
        return sum([await self._delete(query, timedelta(days=days)) for query, days in self._days.items()])

    async def _delete(self, query: Query, age: timedelta) -> int:
        """Each chunk is a transaction of its own, and others have a pause to go first."""
        count = 0
        while True:
            async with self._database.connection() as conn:
                deleted = int((await conn.execute(query, age, self._settings.purge_rows_max)).rpartition(" ")[2])
            count += deleted
            if deleted < self._settings.purge_rows_max:
                break
            await asyncio.sleep(self._settings.purge_pause_seconds)
        if count:
            log.info("purge.deleted", table=query.collection, rows=count)
        return count
