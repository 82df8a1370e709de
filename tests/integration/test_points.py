"""Points through the worker's port, on real Postgres and Valkey."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest
from redis.asyncio import Redis

from infra.errors import Refused
from infra.invariants import check
from point.invariants import INVARIANTS
from point.rules import AMOUNT_MAX
from tests.conftest import MakeDatabase
from tests.fixtures.calls import ADMIN, SHOP, Reply, key, refused, rows, topics, user
from tests.fixtures.databases import INFRA, POINT
from tests.fixtures.points import Worker, running_worker
from tests.fixtures.waiting import eventually


@pytest.fixture
async def database_url(make_database: MakeDatabase) -> str:
    return await make_database(INFRA, POINT)


@pytest.fixture
async def workers(database_url: str, redis_url: str) -> AsyncIterator[list[Worker]]:
    """Two instances on one database."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_worker(database_url, redis_url)) for _ in range(2)]


@pytest.fixture
def worker(workers: list[Worker]) -> Worker:
    return workers[0]


async def test_points_are_earned_spent_and_told(worker: Worker, database_url: str) -> None:
    earned = (await worker.calls.earn("u-1", 150)).message
    spent = (await worker.calls.spend("u-1", 40)).message
    assert (earned.amount, earned.balance_snapshot) == (150, 150)
    assert (spent.amount, spent.balance_snapshot) == (-40, 110)
    assert await worker.calls.balance("u-1") == 110
    assert await topics(database_url, "u-1") == ["point.earned", "point.spent"]


async def test_spending_more_than_there_is_says_what_is_missing(worker: Worker) -> None:
    await worker.calls.earn("u-1", 5)
    refusal = await refused(worker.calls.spend("u-1", 9))
    assert refusal.code == "INSUFFICIENT_POINTS"
    assert refusal.facts == {"available": 5, "requested": 9, "missing": 4}
    assert (await refused(worker.calls.spend("nobody", 1))).facts["available"] == 0


async def test_spending_makes_no_account(worker: Worker, database_url: str) -> None:
    await refused(worker.calls.spend("nobody", 1))
    assert await rows(database_url, "SELECT * FROM balances") == []


async def test_cancelling_undoes_once_and_names_what_it_undid(worker: Worker, database_url: str) -> None:
    earned = (await worker.calls.earn("u-1", 50)).message
    undone = (await worker.calls.cancel(earned.id)).message
    assert (undone.amount, undone.balance_snapshot, undone.original_transaction_id) == (-50, 0, earned.id)
    assert (await refused(worker.calls.cancel(earned.id))).code == "ALREADY_CANCELED"
    assert (await refused(worker.calls.cancel(undone.id))).code == "ALREADY_CANCELED"
    assert await topics(database_url, "u-1") == ["point.earned", "point.canceled"]


async def test_cancelling_a_spending_gives_the_points_back(worker: Worker) -> None:
    await worker.calls.earn("u-1", 50)
    spent = (await worker.calls.spend("u-1", 30)).message
    assert (await worker.calls.cancel(spent.id)).message.balance_snapshot == 50


async def test_an_earning_that_was_spent_cannot_be_cancelled(worker: Worker) -> None:
    earned = (await worker.calls.earn("u-1", 50)).message
    await worker.calls.spend("u-1", 20)
    refusal = await refused(worker.calls.cancel(earned.id))
    assert (refusal.code, refusal.facts["available"], refusal.facts["requested"]) == ("WOULD_GO_NEGATIVE", 30, 50)


async def test_cancelling_what_never_was_is_not_found(worker: Worker) -> None:
    assert (await refused(worker.calls.cancel(404))).code == "NOT_FOUND"


async def test_a_balance_cannot_pass_the_largest_safe_integer(worker: Worker) -> None:
    await worker.calls.earn("u-1", AMOUNT_MAX)
    assert (await refused(worker.calls.earn("u-1", 1))).code == "VALIDATION_FAILED"


@pytest.mark.parametrize("amount", [0, -1, AMOUNT_MAX + 1, -(2**63), 2**63 - 1])
async def test_odd_amounts_are_refused(worker: Worker, amount: int) -> None:
    assert (await refused(worker.calls.earn("u-1", amount))).code == "VALIDATION_FAILED"
    assert (await refused(worker.calls.spend("u-1", amount))).code == "VALIDATION_FAILED"


async def test_a_user_moves_only_its_own_points_and_gives_itself_none(worker: Worker) -> None:
    earned = (await worker.calls.earn("u-1", 10)).message
    for refusal in (
        worker.calls.earn("u-1", 10, caller=user("u-1")),
        worker.calls.spend("u-1", 1, caller=user("u-2")),
        worker.calls.cancel(earned.id, caller=user("u-1")),
        worker.calls.balance("u-1", caller=user("u-2")),
    ):
        assert (await refused(refusal)).code == "FORBIDDEN"
    assert (await worker.calls.spend("u-1", 1, caller=SHOP)).message.amount == -1
    assert (await worker.calls.earn("u-1", 1, caller=ADMIN)).message.amount == 1


async def test_history_is_newest_first_in_pages(worker: Worker) -> None:
    for amount in range(1, 6):
        await worker.calls.earn("u-1", amount)
    page = await worker.calls.history("u-1", page=1, size=2)
    assert ([row.amount for row in page.points], page.total) == ([3, 2], 5)


async def test_50_parallel_repeats_have_one_effect_and_one_answer(workers: list[Worker]) -> None:
    replies = await asyncio.gather(*(workers[n % 2].calls.earn("u-1", 10, command_id=key("once")) for n in range(50)))
    assert len({reply.message.SerializeToString() for reply in replies}) == 1
    assert Counter(reply.replayed for reply in replies) == {False: 1, True: 49}
    assert await workers[0].calls.balance("u-1") == 10


async def test_another_demand_under_the_same_key_is_refused(worker: Worker) -> None:
    await worker.calls.earn("u-1", 10, command_id=key("once"))
    assert (await refused(worker.calls.earn("u-1", 11, command_id=key("once")))).code == "IDEMPOTENCY_KEY_REUSED"


async def test_another_users_demand_racing_under_the_same_key_is_refused(
    workers: list[Worker], database_url: str
) -> None:
    await workers[0].calls.earn("u-1", 1)

    async def waiting(statements: int) -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        await eventually(lambda: _count(database_url, query, statements))

    holder = await asyncpg.connect(database_url)
    async with holder.transaction():  # the first one stands before its commit, its journal row written
        await holder.execute("LOCK TABLE commands IN SHARE MODE")
        first = asyncio.ensure_future(workers[0].calls.earn("u-1", 10, command_id=key("once")))
        await waiting(1)
        second = asyncio.ensure_future(refused(workers[1].calls.earn("u-2", 10, command_id=key("once"))))
        await waiting(2)
    await holder.close()
    assert (await first).message.balance_snapshot == 11
    assert (await second).code == "IDEMPOTENCY_KEY_REUSED"


async def _count(database_url: str, query: str, expected: int) -> bool:
    return [row["count"] for row in await rows(database_url, query)] == [expected]


async def test_a_refusal_that_can_turn_is_judged_anew(worker: Worker) -> None:
    assert (await refused(worker.calls.spend("u-1", 5, command_id=key("later")))).code == "INSUFFICIENT_POINTS"
    await worker.calls.earn("u-1", 5)
    reply = await worker.calls.spend("u-1", 5, command_id=key("later"))
    assert (reply.message.balance_snapshot, reply.replayed) == (0, False)


async def test_a_final_refusal_is_remembered(worker: Worker, database_url: str) -> None:
    earned = (await worker.calls.earn("u-1", 5)).message
    await worker.calls.cancel(earned.id)
    refusals = [await refused(worker.calls.cancel(earned.id, command_id=key("again"))) for _ in range(2)]
    assert [(each.code, each.replayed) for each in refusals] == [
        ("ALREADY_CANCELED", False),
        ("ALREADY_CANCELED", True),
    ]
    kept = await rows(
        database_url, "SELECT refusal IS NOT NULL AS refused FROM commands WHERE command_id = $1", key("again")
    )
    assert kept == [{"refused": True}]


async def test_a_repeat_long_after_the_command_was_purged_gets_the_row(worker: Worker, database_url: str) -> None:
    first = await worker.calls.earn("u-1", 10, command_id=key("old"))
    await rows(database_url, "DELETE FROM commands")
    again = await worker.calls.earn("u-1", 10, command_id=key("old"))
    assert (again.message, again.replayed) == (first.message, True)


async def test_one_winner_of_20_who_cancel_the_same_row(workers: list[Worker]) -> None:
    earned = (await workers[0].calls.earn("u-1", 50)).message
    outcomes = await asyncio.gather(
        *(workers[n % 2].calls.cancel(earned.id) for n in range(20)), return_exceptions=True
    )
    codes = Counter(each.code if isinstance(each, Refused) else type(each).__name__ for each in outcomes)
    assert codes == {"Reply": 1, "ALREADY_CANCELED": 19}


async def test_first_earnings_race_without_a_loss(workers: list[Worker]) -> None:
    await asyncio.gather(*(workers[n % 2].calls.earn(f"u-{n % 10}", 1) for n in range(200)))
    assert [await workers[0].calls.balance(f"u-{n}") for n in range(10)] == [20] * 10


async def test_the_bank_is_conserved_and_never_negative(workers: list[Worker], database_url: str) -> None:
    """Earn, spend and cancel over 8 users from two instances: what was acknowledged is what there is."""
    dice = random.Random(7)
    made: list[Reply] = []

    async def client(number: int) -> int:
        calls, moved = workers[number % 2].calls, 0
        for _ in range(40):
            user_id = f"u-{dice.randrange(8)}"
            try:
                match dice.randrange(3):
                    case 0:
                        reply = await calls.earn(user_id, dice.randint(1, 20))
                    case 1:
                        reply = await calls.spend(user_id, dice.randint(1, 30))
                    case _:
                        reply = await calls.cancel(dice.choice(made).message.id if made else 1)
            except Refused:
                continue
            made.append(reply)
            moved += reply.message.amount
        return moved

    moved = sum(await asyncio.gather(*(client(number) for number in range(16))))
    found = await rows(database_url, "SELECT sum(balance)::bigint AS total, min(balance) AS least FROM balances")
    assert found[0]["total"] == moved
    assert found[0]["least"] >= 0
    assert await check(workers[0].database, INVARIANTS) == []


async def test_a_cached_balance_is_never_older_than_the_answer(worker: Worker) -> None:
    for amount in range(1, 30):
        snapshot = (await worker.calls.earn("u-1", amount)).message.balance_snapshot
        assert await worker.calls.balance("u-1") == snapshot


async def test_a_lying_cache_changes_no_decision(worker: Worker, redis_url: str) -> None:
    await worker.calls.earn("u-1", 10)
    async with Redis.from_url(redis_url, protocol=2) as redis:
        await redis.set("point:balance:u-1", "99:1000000")
        assert (await refused(worker.calls.spend("u-1", 11))).code == "INSUFFICIENT_POINTS"
        for odd in (b"", b"x", b"1:", b"1:-5", b"\xff\xfe", b"9" * 40 + b":1"):
            await redis.set("point:balance:u-1", odd)
            assert await worker.calls.balance("u-1") == 10
        await redis.delete("point:balance:u-1")
        await redis.lpush("point:balance:u-1", "a list")
        assert await worker.calls.balance("u-1") == 10


async def test_without_redis_everything_is_answered(database_url: str) -> None:
    async with running_worker(database_url, "redis://127.0.0.1:1/0") as worker:
        await worker.calls.earn("u-1", 10)
        assert (await worker.calls.spend("u-1", 4)).message.balance_snapshot == 6
        assert await worker.calls.balance("u-1") == 6


async def test_a_balance_is_read_from_the_cache_when_it_is_there(worker: Worker, redis_url: str) -> None:
    await worker.calls.earn("u-1", 10)

    async def cached() -> bool:
        async with Redis.from_url(redis_url, protocol=2) as redis:
            return bool(await redis.get("point:balance:u-1") == b"1:10")

    await eventually(cached)


async def test_the_journal_is_append_only(worker: Worker, database_url: str) -> None:
    await worker.calls.earn("u-1", 10)
    for statement in ("UPDATE journal SET amount = 1", "DELETE FROM journal", "TRUNCATE journal"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await rows(database_url, statement)


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        ("UPDATE balances SET balance = balance + 1", "point_balance_is_sum_of_journal"),
        ("UPDATE balances SET last_seq = last_seq + 1", "point_seq_without_gaps"),
        ("DELETE FROM outbox", "point_each_row_has_its_event"),
    ],
)
async def test_a_hand_broken_row_is_named(worker: Worker, database_url: str, damage: str, broken: str) -> None:
    await worker.calls.earn("u-1", 10)
    assert await check(worker.database, INVARIANTS) == []
    await rows(database_url, damage)
    assert broken in {each.name for each in await check(worker.database, INVARIANTS)}


async def test_a_locked_user_holds_up_nobody_else(worker: Worker, database_url: str) -> None:
    await worker.calls.earn("stuck", 1)
    conn = await asyncpg.connect(database_url)
    try:
        async with conn.transaction():
            await conn.execute("SELECT FROM balances WHERE user_id = 'stuck' FOR UPDATE")
            waiting = asyncio.create_task(worker.calls.earn("stuck", 1))
            async with asyncio.timeout(timedelta(seconds=2).total_seconds()):
                await asyncio.gather(*(worker.calls.earn(f"free-{n}", 1) for n in range(20)))
            assert not waiting.done()
    finally:
        await conn.close()
    assert (await waiting).message.balance_snapshot == 2
