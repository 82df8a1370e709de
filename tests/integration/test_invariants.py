"""Invariants: checked by command and every minute, told by exit code, gauge and log."""

import asyncio
import os
import sys
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from infra import invariants
from infra.invariants import Invariant
from infra.postgres import statement
from infra.settings import Settings
from infra.telemetry import instruments
from tests.conftest import MakeDatabase

HOLDS = Invariant("test_holds", "it holds", statement("SELECT 1 AS one WHERE false"))
BROKEN = Invariant(
    "test_broken", "twelve rows are one too many", statement("SELECT n FROM generate_series(1, 12) AS n")
)
SLOW = Invariant(
    "test_slow", "it takes longer than traffic may", statement("SELECT pg_sleep(0.3) WHERE pg_sleep(0.3) IS NULL")
)


async def test_what_is_broken_is_counted_and_shown(make_database: MakeDatabase) -> None:
    settings = Settings(database_url=await make_database(), statement_timeout_ms=100)
    async with invariants.database(settings) as database:
        [broken] = await invariants.check(database, [HOLDS, BROKEN, SLOW])
    assert (broken.name, broken.violations) == ("test_broken", 12)
    assert broken.rows == [{"n": n} for n in range(1, 11)]
    assert instruments.INVARIANT_VIOLATIONS.labels("test_broken")._value.get() == 12
    assert instruments.INVARIANT_VIOLATIONS.labels("test_holds")._value.get() == 0
    assert instruments.INVARIANT_CHECKED.labels("test_holds")._value.get() > 1.7e9


async def test_the_job_logs_what_is_broken(make_database: MakeDatabase) -> None:
    settings = Settings(database_url=await make_database())
    async with invariants.database(settings) as database:
        with capture_logs() as lines:
            assert await invariants.job(settings, database, [HOLDS, BROKEN]).run_once()
    [line] = [line for line in lines if line["event"] == "invariant.broken"]
    assert (line["invariant"], line["violations"], line["log_level"]) == ("test_broken", 12, "error")


async def run_command(repository: Path, database_url: str, fault: str, *arguments: str) -> tuple[int, str, str]:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(repository),
        "LITTLE_FAULT": fault,
        "DATABASE_URL": database_url,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fixtures.little_service", *arguments, cwd=repository / "tests", env=environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(("fault", "code"), [("", 0), ("broken", 1)])
async def test_the_command_says_it_with_its_exit_code(
    make_database: MakeDatabase, repository: Path, fault: str, code: int
) -> None:
    url = await make_database()
    found, out, _ = await run_command(repository, url, fault, "invariants", "--json")
    assert found == code
    told = orjson.loads(out)
    assert told["checked"] == ["nothing_is_there", "rows_stay_away"]
    assert [each["name"] for each in told["broken"]] == (["rows_stay_away"] if fault else [])
    found, out, _ = await run_command(repository, url, fault, "invariants")
    assert found == code
    assert ("BROKEN  rows_stay_away: no row is there" in out) is bool(fault)


async def test_a_database_that_is_away_is_one_clear_line(repository: Path) -> None:
    code, out, err = await run_command(repository, "postgresql://promo@127.0.0.1:9/none", "", "invariants")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("gateway: cannot start: Postgres does not answer: ")
    assert "Traceback" not in err
