"""Migrations: each once, in order, whole or not at all."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from infra.migrate import MigrationFailed, migrate
from tests.conftest import MakeDatabase
from tests.fixtures.databases import COUPON, GATEWAY, INFRA, POINT, TIMESALE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shop/sql/migrations"
    made.mkdir(parents=True)
    return made


def write(folder: Path, name: str, up: str) -> None:
    (folder / name).write_text(f"-- migrate:up\n{up};\n-- migrate:down\nSELECT no_such_function();\n")


async def tables(url: str) -> set[str]:
    conn = await asyncpg.connect(url)
    try:
        return {row[0] for row in await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    finally:
        await conn.close()


async def test_files_are_applied_once_and_in_order(make_database: MakeDatabase, folder: Path) -> None:
    url = await make_database()
    write(folder, "0002_second.sql", "ALTER TABLE shops ADD COLUMN name text")
    write(folder, "0001_first.sql", "CREATE TABLE shops (id int)")
    assert await migrate(url, [folder]) == ["shop/0001_first", "shop/0002_second"]
    assert await migrate(url, [folder]) == []
    write(folder, "0003_third.sql", "DROP TABLE shops")
    assert await migrate(url, [folder]) == ["shop/0003_third"]
    assert await tables(url) == {"schema_migrations"}


async def test_a_file_that_changed_after_it_was_applied_is_named(make_database: MakeDatabase, folder: Path) -> None:
    url = await make_database()
    write(folder, "0001_first.sql", "CREATE TABLE shops (id int)")
    await migrate(url, [folder])
    write(folder, "0001_first.sql", "CREATE TABLE shops (id bigint)")
    with pytest.raises(MigrationFailed, match=r"^shop/0001_first was changed"):
        await migrate(url, [folder])


async def test_a_file_that_fails_leaves_nothing_and_keeps_those_before(
    make_database: MakeDatabase, folder: Path
) -> None:
    url = await make_database()
    write(folder, "0001_first.sql", "CREATE TABLE shops (id int)")
    write(folder, "0002_second.sql", "CREATE TABLE more (id int); SELECT 1 / 0")
    with pytest.raises(MigrationFailed, match=r"^shop/0002_second: division by zero"):
        await migrate(url, [folder])
    assert await tables(url) == {"schema_migrations", "shops"}


async def test_a_file_without_its_mark_is_named(make_database: MakeDatabase, folder: Path) -> None:
    (folder / "0001_first.sql").write_text("CREATE TABLE shops (id int);")
    with pytest.raises(MigrationFailed, match=r"0001_first\.sql"):
        await migrate(await make_database(), [folder])


async def test_processes_that_start_at_once_apply_each_file_once(make_database: MakeDatabase, folder: Path) -> None:
    url = await make_database()
    write(folder, "0001_first.sql", "CREATE TABLE shops (id int); SELECT pg_sleep(0.05)")
    applied = await asyncio.gather(*(migrate(url, [folder]) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, 1]


@pytest.mark.parametrize("service", [COUPON, POINT, TIMESALE, GATEWAY], ids=lambda folder: folder.parents[1].name)
async def test_every_service_migrates_and_can_go_back(make_database: MakeDatabase, service: Path) -> None:
    folders = [service] if service == GATEWAY else [INFRA, service]
    url = await make_database(*folders)
    conn = await asyncpg.connect(url)
    try:
        for folder in reversed(folders):
            for path in sorted(folder.glob("*.sql"), reverse=True):
                await conn.execute(path.read_text().partition("-- migrate:down")[2])
    finally:
        await conn.close()
    assert await tables(url) == {"schema_migrations"}
