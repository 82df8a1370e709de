"""What was kept long enough is forgotten, in small chunks; all else stays."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from infra import postgres, purge
from infra.postgres import Conn
from tests.conftest import MakeDatabase
from tests.fixtures.databases import INFRA
from tests.fixtures.events import worker_settings

DAY = timedelta(days=1)


async def add_command(conn: Conn, age: timedelta) -> None:
    await conn.execute(
        "INSERT INTO commands (command_id, verb, fingerprint, answer, created_at) "
        "VALUES ($1, 'v', '', '', platform_now() - $2::interval)",
        uuid4(),
        age,
    )


async def add_row(conn: Conn, sent: timedelta | None) -> None:
    await conn.execute(
        "INSERT INTO outbox (event_id, topic, key, payload, headers, created_at, sent_at) "
        "VALUES ($1, 't', 'k', '', '{}', platform_now() - interval '99 days', platform_now() - $2::interval)",
        uuid4(),
        sent,
    )


async def add_inbox(conn: Conn, age: timedelta, outcome: str = "done") -> UUID:
    event_id = uuid4()
    await conn.execute(
        "INSERT INTO inbox (consumer, event_id, outcome, handled_at) "
        "VALUES ('g', $1, $2, platform_now() - $3::interval)",
        event_id,
        outcome,
        age,
    )
    return event_id


async def add_letter(conn: Conn, replayed: timedelta | None) -> None:
    await conn.execute(
        "INSERT INTO dead_letters (consumer, event_id, topic, partition, record_offset, headers, reason, error, tries,"
        " created_at, replayed_at) VALUES ('g', $1, 't', 0, 0, '{}', 'failed', '', 5,"
        " platform_now() - interval '99 days', platform_now() - $2::interval)",
        uuid4(),
        replayed,
    )


async def test_what_is_old_enough_is_deleted_and_nothing_else(make_database: MakeDatabase) -> None:
    settings = worker_settings(database_url=await make_database(INFRA), purge_rows_max=2, purge_pause_seconds=0.001)
    assert settings.inbox_retention_days >= 8
    async with postgres.open(settings) as database:
        async with database.connection() as conn:
            for old in range(5):
                await add_command(conn, 7 * DAY + old * DAY / 24)
                await add_row(conn, 7 * DAY + DAY / 24)
                await add_inbox(conn, settings.inbox_retention_days * DAY + DAY / 24)
                await add_letter(conn, 30 * DAY + DAY / 24)
            await add_command(conn, 7 * DAY - DAY / 24)
            await add_row(conn, 7 * DAY - DAY / 24)
            await add_row(conn, None)  # never sent: kept, however old
            await add_inbox(conn, 8 * DAY)
            await add_inbox(conn, 99 * DAY, "dead")  # a replay asks for it
            await add_letter(conn, 30 * DAY - DAY / 24)
            await add_letter(conn, None)  # never replayed
        assert await purge.Purge(settings, database).run() == 20
        assert await purge.Purge(settings, database).run() == 0
        async with database.connection() as conn:
            left = {
                table: await conn.fetchval(f"SELECT count(*) FROM {table}")
                for table in ("commands", "outbox", "inbox", "dead_letters")
            }
    assert left == {"commands": 1, "outbox": 2, "inbox": 2, "dead_letters": 2}


@pytest.mark.parametrize(
    ("query", "index"), [("purge_commands", "commands_created_idx"), ("purge_inbox", "inbox_handled_idx")]
)
async def test_a_purge_reads_an_index_and_not_the_table(make_database: MakeDatabase, query: str, index: str) -> None:
    settings = worker_settings(database_url=await make_database(INFRA))
    async with postgres.open(settings) as database, database.connection() as conn:
        await conn.execute(
            "INSERT INTO commands (command_id, verb, fingerprint, answer, created_at) "
            "SELECT gen_random_uuid(), 'v', '', '', platform_now() FROM generate_series(1, 20000)"
        )
        await conn.execute(
            "INSERT INTO inbox (consumer, event_id, outcome, handled_at) "
            "SELECT 'g', gen_random_uuid(), 'done', platform_now() FROM generate_series(1, 20000)"
        )
        await conn.execute("ANALYZE commands, inbox")
        plan = await conn.fetch(f"EXPLAIN {purge.SQL[query].text}", 7 * DAY, 1000)
    assert any(index in row[0] for row in plan)
    assert not any("Seq Scan" in row[0] for row in plan)
