"""Applies migrations: SQL files in dbmate's format, in order, each in a transaction, each once.

`-- migrate:up` begins what is applied, `-- migrate:down` ends it. A file that was applied never changes again: its
checksum is stored and compared.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from infra.logs import get_logger

PLATFORM = Path(__file__).parent / "sql" / "migrations"  # what every worker's database begins with
UP = re.compile(r"^-- migrate:up\s*$", re.MULTILINE)
DOWN = re.compile(r"^-- migrate:down\s*$", re.MULTILINE)
ADVISORY_KEY = 0x70726F6D6F  # one migration at a time in a database, however many processes start
CONNECT_SECONDS = 5.0
LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  name text CONSTRAINT schema_migrations_pkey PRIMARY KEY,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""

log = get_logger(__name__)


class MigrationFailed(Exception):
    """A file is malformed, was changed after it was applied, or Postgres refused it; one line for a person."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `name` is its service and its stem: "infra/0001_platform"."""

    name: str
    checksum: str
    up: str


async def migrate(url: str, folders: Sequence[Path]) -> list[str]:
    """Apply what is new, folder by folder, and return its names. The folders are `<service>/sql/migrations`.

    :raises MigrationFailed: :raises OSError: Postgres is not there.
    """
    wanted = [read_migration(path) for folder in folders for path in sorted(folder.glob("*.sql"))]
    conn = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    try:
        await conn.execute("SET lock_timeout = '60s'")  # for another process to finish its migrations
        await conn.execute("SELECT pg_advisory_lock($1)", ADVISORY_KEY)
        await conn.execute("SET lock_timeout = '5s'")  # who waits for a table's lock holds up all who come after
        await conn.execute("SET statement_timeout = '15min'")
        await conn.execute("SET client_min_messages = warning")  # else the ledger's IF NOT EXISTS is a notice
        await conn.execute(LEDGER)
        applied = {
            row["name"]: row["checksum"] for row in await conn.fetch("SELECT name, checksum FROM schema_migrations")
        }
        return [migration.name for migration in wanted if await _apply(conn, migration, applied)]
    finally:
        await conn.close(timeout=CONNECT_SECONDS)


def read_migration(path: Path) -> Migration:
    """:raises MigrationFailed: the file has no `-- migrate:up`."""
    text = path.read_text(encoding="utf-8")
    begin = UP.search(text)
    if begin is None:
        raise MigrationFailed(f"{path.name}: no line '-- migrate:up'")
    end = DOWN.search(text, begin.end())
    name = f"{path.parents[2].name}/{path.stem}"
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(name, checksum, text[begin.end() : end.start() if end else None])


async def _apply(conn: "asyncpg.Connection[asyncpg.Record]", migration: Migration, applied: dict[str, str]) -> bool:
    if migration.name in applied:
        if applied[migration.name] != migration.checksum:
            raise MigrationFailed(f"{migration.name} was changed after it was applied")
        return False
    try:
        async with conn.transaction():
            await conn.execute(migration.up)
            await conn.execute(
                "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)", migration.name, migration.checksum
            )
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"{migration.name}: {error}") from error
    log.info("migration.applied", migration=migration.name)
    return True
