"""Group commit on a real Postgres: who shares a transaction, who waits for whom, and what a failure does to whom."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest

from infra import postgres
from infra.batch import BatchFailed
from infra.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable
from infra.settings import WorkerSettings
from tests.conftest import MakeDatabase
from tests.fixtures.batches import LOCK, Shelves, shelves
from tests.fixtures.waiting import eventually

Open = Callable[..., AbstractAsyncContextManager[Shelves]]


@pytest.fixture
def open_shelves(make_database: MakeDatabase) -> Open:
    @asynccontextmanager
    async def open_them(**limits: object) -> AsyncIterator[Shelves]:
        settings = WorkerSettings.model_validate({"database_url": await make_database(), **limits})
        async with shelves(settings) as made:
            yield made

    return open_them


@asynccontextmanager
async def locked(made: Shelves, shelf: int) -> AsyncIterator[None]:
    async with made.database.transaction() as conn:
        await conn.fetch(LOCK, [shelf])
        yield


async def test_a_lone_claim_is_carried_out_at_once(open_shelves: Open) -> None:
    async with open_shelves() as made:
        assert await made.take() == 1
        assert made.sizes == [1]


async def test_what_waits_while_a_transaction_runs_shares_the_next(open_shelves: Open) -> None:
    async with open_shelves() as made, asyncio.TaskGroup() as tasks:
        made.let_through.clear()
        tasks.create_task(made.take(name="first"))
        await eventually(lambda: made.sizes == [1])
        for number in range(20):
            tasks.create_task(made.take(name=f"{number}"))
        await asyncio.sleep(0)
        made.let_through.set()
        await eventually(lambda: made.sizes == [1, 20])
        await eventually(lambda: made.batch._lanes.depth == 0)
        assert await made.names() == ["first", *map(str, range(20))]


async def test_a_batch_has_a_largest_size(open_shelves: Open) -> None:
    async with open_shelves(batch_size_max=8) as made:
        await asyncio.gather(*(made.take() for _ in range(20)))
        assert made.sizes == [8, 8, 4]


async def test_one_locked_row_does_not_hold_up_others(open_shelves: Open) -> None:
    async with open_shelves(lock_timeout_ms=1900) as made, asyncio.TaskGroup() as tasks, locked(made, 1):
        stuck = tasks.create_task(made.take(1))
        await eventually(lambda: made.sizes)
        async with asyncio.timeout(1.5):
            await asyncio.gather(*(made.take(shelf) for shelf in range(2, 50)))
        assert not stuck.done()


async def test_a_locked_row_leaves_the_lane_it_shares(open_shelves: Open) -> None:
    async with open_shelves(batch_lanes_max=1, lock_timeout_ms=50) as made, asyncio.TaskGroup() as tasks:
        async with locked(made, 1):
            stuck = [tasks.create_task(made.take(shelf)) for shelf in (1, 2, 3, 1, 4)]
            await eventually(lambda: sum(task.done() for task in stuck) == 3)
            async with asyncio.timeout(1.5):  # the row stays locked for as long as this takes
                assert await made.take(5)
                assert await made.take(6)
            assert not stuck[0].done()
        await asyncio.gather(*stuck)
        assert await made.take(1)
        assert made.batch._lanes.depth == 0


async def test_a_row_that_is_free_again_does_not_wait_behind_one_that_is_not(open_shelves: Open) -> None:
    async with open_shelves(batch_lanes_max=1, batch_size_max=1, lock_timeout_ms=300) as made, locked(made, 2):

        async def take_ten() -> None:
            for _ in range(10):
                await made.take(1)

        async with locked(made, 1):
            stuck = asyncio.ensure_future(made.take(2, seconds=20))
            taking = [asyncio.ensure_future(take_ten()) for _ in range(3)]  # so that row 1 always has a claim
            await eventually(lambda: len(made.batch._lanes.apart.queue) >= 3)
        async with asyncio.timeout(1.8):  # ten waits for the other's lock are three seconds
            await asyncio.gather(*taking)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)


async def test_one_locked_row_among_64_in_a_batch_is_found_by_halving(open_shelves: Open) -> None:
    async with (
        open_shelves(batch_lanes_max=1, lock_timeout_ms=30) as made,
        asyncio.TaskGroup() as tasks,
        locked(made, 40),
    ):
        takes = {shelf: tasks.create_task(made.take(shelf)) for shelf in range(1, 65)}
        await eventually(lambda: sum(task.done() for task in takes.values()) == 63)
        assert not takes[40].done()
        assert len(made.sizes) <= 20


async def test_a_locked_row_is_tried_again_while_the_deadline_allows(open_shelves: Open) -> None:
    async with open_shelves(lock_timeout_ms=30) as made:
        async with locked(made, 1):
            taking = asyncio.ensure_future(made.take(1))
            await eventually(lambda: len(made.sizes) >= 3)
        assert await taking == 1
        assert await made.names() == ["somebody"]


async def test_a_row_that_stays_locked_is_unavailable_before_the_deadline(open_shelves: Open) -> None:
    async with open_shelves(lock_timeout_ms=30) as made, locked(made, 1):
        with pytest.raises(Unavailable) as failed:
            await made.take(1, seconds=0.3)
        assert postgres.sqlstate(failed.value) == "55P03"


async def test_one_bad_claim_among_512_is_found_by_halving(open_shelves: Open) -> None:
    async with open_shelves() as made:
        names = [f"n{number}" for number in range(512)]
        names[300] = "poison"
        results = await asyncio.gather(*(made.take(1, name) for name in names), return_exceptions=True)
        assert [name for name, result in zip(names, results, strict=True) if not isinstance(result, int)] == ["poison"]
        bad = results[300]
        assert isinstance(bad, asyncpg.CheckViolationError)
        assert postgres.constraint(bad) == "takers_no_poison"
        assert len(made.sizes) <= 20
        assert await made.names() == [name for name in names if name != "poison"]


async def test_a_value_that_cannot_be_encoded_is_its_claims_alone(open_shelves: Open) -> None:
    async with open_shelves() as made:
        good, bad = await asyncio.gather(made.take(1), made.take(2**40), return_exceptions=True)
        assert isinstance(good, int)
        assert isinstance(bad, asyncpg.DataError)


async def test_an_exception_as_result_is_that_claims_alone(open_shelves: Open) -> None:
    async with open_shelves() as made:
        good, refused = await asyncio.gather(made.take(), made.refuse(NotFound("Shelf", 1)), return_exceptions=True)
        assert isinstance(good, int)
        assert isinstance(refused, NotFound)
        assert made.sizes == [2]


async def test_a_rule_that_runs_out_of_an_iterator_does_not_end_its_lane(open_shelves: Open) -> None:
    async with open_shelves() as made:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await made.refuse(StopIteration())
        assert isinstance(await made.take(), int)


async def test_an_exception_in_a_rule_is_that_claims_alone(open_shelves: Open) -> None:
    async with open_shelves() as made:

        async def work(takes: object) -> list[int | Exception]:
            if any(take.name == "odd" for take in takes):  # type: ignore[attr-defined]  # the test's own claims
                raise ZeroDivisionError
            return [7 for _ in takes]  # type: ignore[attr-defined]  # as above

        made.batch._work = work
        results = await asyncio.gather(made.take(), made.take(name="odd"), made.take(), return_exceptions=True)
        assert results[0] == results[2] == 7
        assert isinstance(results[1], ZeroDivisionError)


async def test_a_wrong_statement_fails_everybody_at_once(open_shelves: Open) -> None:
    async with open_shelves() as made:
        async with made.database.connection() as conn:
            await conn.execute("DROP TABLE takers")
        results = await asyncio.gather(*(made.take() for _ in range(4)), return_exceptions=True)
        assert all(isinstance(result, BatchFailed) for result in results)
        assert made.sizes == [4]


async def test_a_command_that_was_stored_meanwhile_runs_again_at_once(open_shelves: Open) -> None:
    async with open_shelves() as made:
        tries = 0

        async def work(takes: object) -> list[int | Exception]:
            nonlocal tries
            tries += 1
            if tries == 1:
                async with made.database.transaction() as conn:
                    await conn.execute("CREATE TEMP TABLE commands (id int CONSTRAINT commands_pkey PRIMARY KEY)")
                    await conn.execute("INSERT INTO commands VALUES (1), (1)")
            return [7 for _ in takes]  # type: ignore[attr-defined]  # the test's own claims

        made.batch._work = work
        assert list(await asyncio.gather(made.take(), made.take())) == [7, 7]
        assert tries == 2


async def test_a_connection_lost_in_the_middle_is_healed(open_shelves: Open) -> None:
    async with open_shelves() as made:
        made.let_through.clear()
        taking = asyncio.ensure_future(made.take())
        await eventually(lambda: made.sizes == [1])
        async with made.database.connection() as conn:
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state = 'idle in transaction'"
            )
        made.let_through.set()
        assert await taking == 1
        assert await made.names() == ["somebody"]


async def test_a_full_queue_refuses_the_next_claim(open_shelves: Open) -> None:
    async with open_shelves(batch_queue_max=3) as made, asyncio.TaskGroup() as tasks:
        made.let_through.clear()
        for _ in range(3):
            tasks.create_task(made.take())
        await eventually(lambda: made.sizes)
        with pytest.raises(Overloaded):
            await made.take()
        made.let_through.set()


async def test_a_claim_past_its_deadline_is_dropped_before_any_lock(open_shelves: Open) -> None:
    async with open_shelves() as made, asyncio.TaskGroup() as tasks:
        made.let_through.clear()
        tasks.create_task(made.take(name="first"))
        await eventually(lambda: made.sizes == [1])
        with pytest.raises(DeadlineExceeded):
            await made.take(name="late", seconds=0.05)
        tasks.create_task(made.take(name="in time"))
        await asyncio.sleep(0)
        made.let_through.set()
        await eventually(lambda: made.sizes == [1, 1])
        await eventually(lambda: made.batch._lanes.depth == 0)
        assert await made.names() == ["first", "in time"]


async def test_a_caller_that_leaves_cancels_neither_its_claim_nor_the_batch(open_shelves: Open) -> None:
    async with open_shelves() as made:
        made.let_through.clear()
        staying, leaving = asyncio.ensure_future(made.take()), asyncio.ensure_future(made.take(name="left"))
        await eventually(lambda: made.sizes == [2])
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        made.let_through.set()
        assert await staying == 1
        assert await made.names() == ["somebody", "left"]
        assert made.sizes == [2]


async def test_a_stop_finishes_what_waits_and_refuses_what_comes(make_database: MakeDatabase) -> None:
    settings = WorkerSettings.model_validate({"database_url": await make_database(), "batch_drain_seconds": 2})
    async with shelves(settings) as made:
        made.let_through.clear()
        running, waiting = asyncio.ensure_future(made.take(name="running")), None
        await eventually(lambda: made.sizes == [1])
        waiting = asyncio.ensure_future(made.take(name="waiting"))
        await asyncio.sleep(0)
        made.stop()
        await eventually(lambda: made.batch._stopping)
        with pytest.raises(Unavailable):
            await made.take(name="late")
        made.let_through.set()
        await asyncio.gather(running, waiting)
        assert await made.names() == ["running", "waiting"]


async def test_a_stop_is_bounded_and_tells_who_still_waits(make_database: MakeDatabase) -> None:
    settings = WorkerSettings.model_validate({"database_url": await make_database(), "batch_drain_seconds": 0.05})
    async with shelves(settings) as made:
        made.let_through.clear()
        running = asyncio.ensure_future(made.take(name="running"))
        await eventually(lambda: made.sizes == [1])
        waiting = asyncio.ensure_future(made.take(name="waiting"))
        await asyncio.sleep(0)
        made.stop()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable, Unavailable]
        assert await made.names() == []
