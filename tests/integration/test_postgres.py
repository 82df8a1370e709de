"""The door to Postgres: what it gives, what its errors leave as, what its spans say."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from infra import postgres, telemetry
from infra.errors import Overloaded, Unavailable
from infra.local.ports import free_ports
from infra.postgres import Database, Failure
from infra.settings import Settings
from tests.conftest import MakeDatabase
from tests.fixtures.databases import INFRA
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually


async def settings_for(make_database: MakeDatabase, **limits: object) -> Settings:
    return Settings.model_validate({"database_url": await make_database(INFRA), **limits})


async def test_json_and_times_come_back_as_python_objects(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database)) as database, database.connection() as conn:
        row = await conn.fetchrow("SELECT $1::jsonb AS given, platform_now() AS at", {"a": [1, None]})
        assert row is not None
        assert row["given"] == {"a": [1, None]}
        assert row["at"].tzinfo is not None
        assert await conn.fetchval("SELECT array_agg(j) FROM unnest($1::jsonb[]) AS j", [{"a": 1}, {}]) == [
            {"a": 1},
            {},
        ]


async def test_an_error_inside_a_transaction_rolls_back(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database)) as database:
        with pytest.raises(asyncpg.UniqueViolationError) as failed:
            async with database.transaction() as conn:
                await insert_inbox(conn, event := uuid4())
                await insert_inbox(conn, event)
        assert postgres.classify(failed.value) is Failure.HALVE
        assert postgres.constraint(failed.value) == "inbox_pkey"
        async with database.connection() as conn:
            assert await conn.fetchval("SELECT count(*) FROM inbox") == 0


async def test_an_inner_transaction_is_undone_alone(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database)) as database:
        async with database.transaction() as conn:
            await insert_inbox(conn, uuid4())
            with pytest.raises(RuntimeError):
                async with conn.transaction():
                    await insert_inbox(conn, uuid4())
                    raise RuntimeError
            await insert_inbox(conn, uuid4())
        async with database.connection() as conn:
            assert await conn.fetchval("SELECT count(*) FROM inbox") == 2


async def test_a_full_pool_refuses_as_overloaded(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database, pool_size_max=1, pool_acquire_seconds=0.05)) as database:
        async with database.connection():
            with pytest.raises(Overloaded):
                async with database.connection():
                    pass
        async with database.connection() as conn:
            assert await conn.fetchval("SELECT 1") == 1


async def test_a_process_starts_without_postgres_and_says_unavailable() -> None:
    settings = Settings.model_validate({"database_url": f"postgresql://promo:x@127.0.0.1:{free_ports(1)[0]}/coupon_db"})
    async with postgres.open(settings) as database:
        with pytest.raises(Unavailable):
            async with database.connection():
                pass
        assert not database.ready


async def test_ready_follows_whether_postgres_answers(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database)) as database:
        await eventually(lambda: database.ready)


async def test_a_locked_row_is_unavailable_and_asks_for_another_try(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database, lock_timeout_ms=50)) as database:
        async with database.transaction() as conn:
            await conn.execute("LOCK TABLE inbox")
            with pytest.raises(Unavailable) as failed:
                await count_inbox(database)
        assert postgres.sqlstate(failed.value) == "55P03"
        assert postgres.classify(failed.value) is Failure.AGAIN
        assert await count_inbox(database) == 0


async def test_a_killed_connection_is_unavailable_and_replaced(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database, pool_size_max=2)) as database:
        with pytest.raises(Unavailable) as failed:
            async with database.transaction() as conn:
                pid = await conn.fetchval("SELECT pg_backend_pid()")
                async with database.connection() as other:
                    await other.execute("SELECT pg_terminate_backend($1)", pid)
                await conn.fetchval("SELECT 1")
        assert postgres.classify(failed.value) is Failure.AGAIN
        assert await count_inbox(database) == 0


async def test_a_connection_lost_between_two_statements_asks_for_another_try(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database, pool_size_max=2)) as database:
        with pytest.raises(Unavailable) as failed:
            async with database.transaction() as conn:
                pid = await conn.fetchval("SELECT pg_backend_pid()")
                async with database.connection() as other:
                    await other.execute("SELECT pg_terminate_backend($1)", pid)
                await eventually(conn._raw.is_closed)
                await conn.fetchval("SELECT 1")
        assert postgres.classify(failed.value) is Failure.AGAIN


async def test_a_value_the_driver_cannot_encode_is_halved_and_a_missing_table_is_a_bug(
    make_database: MakeDatabase,
) -> None:
    async with postgres.open(await settings_for(make_database)) as database, database.connection() as conn:
        with pytest.raises(asyncpg.DataError) as encoding:
            await conn.execute("SELECT $1::int", 2**40)
        assert postgres.classify(encoding.value) is Failure.HALVE
        with pytest.raises(asyncpg.UndefinedTableError) as missing:
            await conn.execute("SELECT * FROM nowhere")
        assert postgres.classify(missing.value) is Failure.BUG


async def test_a_repeated_command_runs_again_at_once(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database)) as database:
        with pytest.raises(asyncpg.UniqueViolationError) as failed:
            async with database.transaction() as conn:
                for _ in range(2):
                    await conn.execute(
                        "INSERT INTO commands VALUES ($1, 'issue', '', '', NULL, platform_now())", UUID(int=1)
                    )
        assert postgres.classify(failed.value) is Failure.AGAIN_AT_ONCE


async def test_a_dedicated_connection_has_its_own_session(make_database: MakeDatabase) -> None:
    async with (
        postgres.open(await settings_for(make_database)) as database,
        database.dedicated(idle_session_timeout="5000") as conn,
    ):
        assert await conn.fetchval("SHOW idle_session_timeout") == "5s"
        assert await conn.fetchval("SHOW lock_timeout") == "300ms"
        assert await conn.fetchval("SELECT $1::jsonb", {"a": 1}) == {"a": 1}


async def test_statements_have_spans_under_a_sampled_parent_only(make_database: MakeDatabase, spans: Spans) -> None:
    query = postgres.statement("SELECT 1", name="read_one", summary="SELECT inbox")
    async with postgres.open(await settings_for(make_database)) as database:
        async with database.transaction() as conn:
            await conn.fetchval(query)
        assert spans.finished() == []
        with telemetry.root("request"):
            async with database.transaction() as conn:
                await conn.fetchval(query)
    assert spans.names() == ["BEGIN", "SELECT inbox", "COMMIT", "request"]
    begin, select = spans.finished()[:2]
    assert begin.attributes is not None
    assert begin.attributes["promo.pool.wait_ms"] >= 0  # type: ignore[operator]  # attribute values are a union
    attributes = dict(select.attributes or {})
    assert attributes.pop("db.namespace", "").endswith("|public")  # type: ignore[union-attr]  # the same
    assert attributes == {
        "db.system.name": "postgresql",
        "db.operation.name": "SELECT",
        "db.collection.name": "inbox",
        "db.query.text": "SELECT 1",
        "promo.query": "read_one",
        "promo.operation": "pg.query SELECT inbox",
    }


async def test_a_failed_statement_is_a_red_span_with_its_sqlstate(make_database: MakeDatabase, spans: Spans) -> None:
    async with postgres.open(await settings_for(make_database)) as database:
        with pytest.raises(asyncpg.DivisionByZeroError), telemetry.root("request"):
            async with database.transaction() as conn:
                await conn.fetchval(postgres.statement("SELECT 1 / 0", summary="SELECT nothing"))
    assert spans.names() == ["BEGIN", "SELECT nothing", "ROLLBACK", "request"]
    failed = spans.named("SELECT nothing")[0]
    assert not failed.status.is_ok
    assert failed.attributes is not None
    assert failed.attributes["db.response.status_code"] == failed.attributes["error.type"] == "22012"
    assert [event.name for span in spans.finished() for event in span.events] == ["exception"]


async def test_a_cancelled_statement_gives_its_connection_back(make_database: MakeDatabase) -> None:
    async with postgres.open(await settings_for(make_database, pool_size_max=1)) as database:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), database.transaction() as conn:
                await conn.execute("SELECT pg_sleep(1)")
        assert await count_inbox(database) == 0


async def insert_inbox(conn: postgres.Conn, event: UUID) -> None:
    await conn.execute("INSERT INTO inbox VALUES ('group', $1, 'done', platform_now())", event)


async def count_inbox(database: Database) -> int:
    async with database.transaction() as conn:
        count: int = await conn.fetchval("SELECT count(*) FROM inbox")
    return count
