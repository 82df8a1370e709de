"""Background jobs go on whatever happens, and say so."""

import asyncio

import pytest
from structlog.testing import capture_logs

from infra.errors import Unavailable
from infra.jobs import Job
from infra.telemetry import instruments
from infra.vitals import measure_loop_lag, watch_dependencies


def errors_of(job: str, error: str) -> float:
    return float(instruments.JOB_ERRORS.labels(job, error)._value.get())


@pytest.mark.parametrize(
    ("error", "name", "level"),
    [
        (Unavailable(), "UNAVAILABLE", "warning"),
        (ConnectionError(), "ConnectionError", "warning"),
        (KeyError(), "_OTHER", "error"),
    ],
)
async def test_a_failing_run_is_logged_and_counted(error: Exception, name: str, level: str) -> None:
    async def fail() -> None:
        raise error

    before = errors_of("failing", name)
    with capture_logs() as lines:
        assert not await Job("failing", 1.0, fail).run_once()
    assert [(line["event"], line["job"], line["log_level"]) for line in lines] == [("job.failed", "failing", level)]
    assert errors_of("failing", name) == before + 1


async def test_a_run_that_takes_too_long_fails() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    assert not await Job("hanging", 1.0, hang, timeout_seconds=0.01).run_once()


async def test_a_good_run_is_remembered() -> None:
    async def work() -> None:
        return

    assert await Job("working", 1.0, work).run_once()
    assert instruments.JOB_LAST_SUCCESS.labels("working")._value.get() > 1.7e9


async def test_the_loop_survives_its_errors() -> None:
    runs, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("not yet")
        done.set()

    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(Job("looping", 0.001, work).loop())
        await asyncio.wait_for(done.wait(), 5)
        loop.cancel()
    assert runs >= 3


async def test_a_cancel_ends_the_loop() -> None:
    async def work() -> None:
        return

    task = asyncio.create_task(Job("ending", 60.0, work).loop())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_dependencies_that_answer_are_up() -> None:
    async def yes() -> bool:
        return True

    async def no() -> bool:
        raise ConnectionError

    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(watch_dependencies({"redis": yes, "kafka": no}, {"postgres": lambda: True}, 60.0))
        await asyncio.sleep(0.01)
        watch.cancel()
    up = [instruments.DEPENDENCY_UP.labels(name)._value.get() for name in ("redis", "kafka", "postgres")]
    assert up == [1.0, 0.0, 1.0]


async def test_a_blocked_loop_is_seen() -> None:
    total = instruments.LOOP_LAG_SECONDS._sum

    before = total.get()
    async with asyncio.TaskGroup() as tasks:
        measuring = tasks.create_task(measure_loop_lag())
        await asyncio.sleep(0)
        ends = asyncio.get_running_loop().time() + 0.25
        while asyncio.get_running_loop().time() < ends:
            pass
        await asyncio.sleep(0.01)
        measuring.cancel()
    assert total.get() - before >= 0.1
