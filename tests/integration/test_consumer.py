"""One poll is one transaction; an event takes effect once; a bad record is found, and holds up only its own key."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from infra import dead_letters, render
from infra.consumer import BadRecord, Consumer, Record
from infra.errors import Unavailable
from infra.postgres import Conn
from infra.telemetry import instruments
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.consuming import GROUP, TOPIC, Bench, Effects, MakeBench, bench_maker, poison
from tests.fixtures.events import header, make_event, produce, read_topic, running
from tests.fixtures.waiting import eventually


@pytest.fixture
async def make_bench(
    make_database: MakeDatabase, make_topics: MakeTopics, kafka_brokers: str, topic_prefix: str
) -> AsyncIterator[MakeBench]:
    async with bench_maker(make_database, make_topics, kafka_brokers, topic_prefix) as make:
        yield make


async def test_a_poll_is_one_transaction_and_each_key_keeps_its_order(make_bench: MakeBench) -> None:
    bench, effects = await make_bench(), Effects()
    await bench.send(*((f"u-{number % 5}", number) for number in range(1, 101)))
    async with running(bench.consumer(effects).run):
        await eventually(lambda: bench.has(100))
        await eventually(lambda: len(effects.committed) == 100)
    assert len(effects.calls) < 20
    for key in range(5):
        of_key = await bench.effects(f"u-{key}")
        assert of_key == sorted(of_key)


async def test_an_event_that_comes_thrice_has_one_effect(make_bench: MakeBench) -> None:
    bench, effects = await make_bench(), Effects()
    await bench.send(("u-1", 1))
    [record] = await read_topic(bench.settings.kafka_brokers, bench.topic, 1)
    again = [(record.key, record.value, record.headers)] * 2
    await produce(bench.settings.kafka_brokers, bench.topic, again)  # twice in one poll with the first, and
    async with running(bench.consumer(effects).run):
        await eventually(lambda: bench.has(1))
        await produce(bench.settings.kafka_brokers, bench.topic, again)  # twice in a later one
        await bench.send(("u-1", 2))
        await eventually(lambda: bench.has(2))
    assert await bench.effects() == [1, 2]


async def test_a_group_that_starts_again_has_no_second_effect(make_bench: MakeBench) -> None:
    bench, effects = await make_bench(), Effects()
    await bench.send(("u-1", 1), ("u-2", 2))
    for _ in range(2):
        async with running(bench.consumer(effects).run):
            await eventually(lambda: bench.has(2))
    async with running(bench.consumer(effects, group="another").run):
        await eventually(lambda: bench.has(4))
    assert sorted(await bench.effects()) == [1, 1, 2, 2]


async def test_the_effect_and_the_memory_of_it_are_one(make_bench: MakeBench) -> None:
    """The handler fails after its write: neither the effect nor the inbox row stays, and the next try has both."""
    bench, failures = await make_bench(), [RuntimeError("once")]

    def fail_once(record: Record) -> None:
        if failures:
            raise failures.pop()

    effects = Effects(fail_once)
    await bench.send(("u-1", 1))
    async with running(bench.consumer(effects).run):
        await eventually(lambda: len(effects.committed) == 1)
    assert await bench.effects() == [1]
    assert effects.calls == [[1], [1]]


async def test_a_poisonous_record_leaves_the_other_keys_flowing(make_bench: MakeBench) -> None:
    bench = await make_bench(consumer_retry_seconds=0.05)
    effects = Effects(poison(50))
    await bench.send(*((f"u-{number}", number) for number in range(1, 101)), ("u-50", 101), ("u-51", 102))
    loop = asyncio.get_running_loop()
    async with running(bench.consumer(effects).run):
        started = loop.time()
        await eventually(lambda: bench.has(100))
        flowed = loop.time() - started
        assert not await bench.letters()  # all others are done while it still waits for a try
        assert await bench.effects("u-50") == []
        await eventually(bench.letters, seconds=10)
        await eventually(lambda: bench.has(101))
    assert flowed < 2.0
    assert await bench.effects("u-50") == [101]  # it waited behind, and then went on
    [letter] = await bench.letters()
    assert (letter.reason, letter.tries, letter.key) == ("failed", 5, "u-50")
    assert "poison" in letter.error
    assert effects.calls.count([50]) == 5
    assert sum(50 in call for call in effects.calls) < 20


async def test_a_dead_letter_says_why_and_keeps_the_record(make_bench: MakeBench) -> None:
    bench = await make_bench()
    await bench.send(("u-1", 7))
    async with running(bench.consumer(Effects(poison(7))).run):
        await eventually(bench.letters)
    assert await bench.relay.relay_once() == 1
    [record] = await read_topic(bench.settings.kafka_brokers, bench.topic, 1)
    [dead] = await read_topic(bench.settings.kafka_brokers, f"{bench.topic}.dlq", 1)
    assert (dead.key, dead.value) == (record.key, record.value)
    original = {name: value for name, value in record.headers if name != "traceparent"}
    assert original.items() <= dict(dead.headers).items()
    assert header(dead, "ce_id") == header(record, "ce_id")
    told = {name: header(dead, f"dlq-{name}") for name in ("reason", "tries", "group", "topic", "partition", "offset")}
    assert told == {
        "reason": "failed",
        "tries": "5",
        "group": GROUP,
        "topic": TOPIC,
        "partition": str(record.partition),
        "offset": str(record.offset),
    }
    assert header(dead, "dlq-error") == "RuntimeError: poison"


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"\xff\x00 no json", [], "malformed"),
        (b"[]", [], "malformed"),
        (None, [], "malformed"),
        (b"{}", [("ce_id", b"\xff")], "malformed"),
        (b"{}", [("ce_specversion", b"2.0")], "unknown_version"),
        (b"{}", [("ce_dataschema", b"promo.events.v2.PointEarned")], "unknown_version"),
        (orjson.dumps({"amount": "many"}), [("promo-raw-key", b"x"), ("promo-first-send", b"y")], "malformed"),
        (b"{" + b" " * 1_000_000 + b"}", [("large", b"z" * 20_000)], "malformed"),
    ],
    ids=["bytes", "list", "tombstone", "schema", "specversion", "major", "field", "megabyte"],
)
async def test_bad_bytes_are_given_up_at_once(
    make_bench: MakeBench, value: bytes | None, headers: list[tuple[str, bytes]], reason: str
) -> None:
    bench, effects = await make_bench(), Effects()
    await produce(bench.settings.kafka_brokers, bench.topic, [(b"u-1", value, headers)])
    await bench.send(("u-1", 2))
    async with running(bench.consumer(effects).run):
        await eventually(lambda: bench.has(1))
    [letter] = await bench.letters()
    assert (letter.reason, letter.tries) == (reason, 1)
    assert await bench.relay.relay_once() == 1
    [dead] = await read_topic(bench.settings.kafka_brokers, f"{bench.topic}.dlq", 1)
    assert header(dead, "dlq-reason") == reason
    assert header(dead, "ce_id") == str(letter.event_id)
    assert dead.key == b"u-1"


async def test_a_key_that_is_no_text_comes_through_the_dead_letters_unchanged(make_bench: MakeBench) -> None:
    bench = await make_bench()
    await produce(bench.settings.kafka_brokers, bench.topic, [(b"\xff\x00", b"{}", []), (None, b"{}", [])])
    async with running(bench.consumer(Effects()).run):
        await eventually(lambda: _count(bench, 2))
    assert await bench.relay.relay_once() == 2
    dead = await read_topic(bench.settings.kafka_brokers, f"{bench.topic}.dlq", 2)
    assert {record.key for record in dead} == {b"\xff\x00", None}


async def test_a_replay_takes_effect_once_and_in_its_group_alone(make_bench: MakeBench) -> None:
    bench = await make_bench()
    broken, other = Effects(poison(1)), Effects()
    await bench.send(("u-1", 1))
    async with running(bench.consumer(other, group="other").run):
        async with running(bench.consumer(broken).run):
            await eventually(bench.letters)
        broken.fail = lambda record: None
        async with running(bench.consumer(broken).run):
            for _ in range(2):
                await dead_letters.replay(bench.settings, bench.database, TOPIC, GROUP)
                while await bench.relay.relay_once():
                    pass
            await eventually(lambda: broken.committed)
            replayed = await read_topic(bench.settings.kafka_brokers, bench.topic, 2)
            raw = [(replayed[1].key, replayed[1].value, replayed[1].headers)]
            await produce(bench.settings.kafka_brokers, bench.topic, raw)  # as if it had been sent twice
            await bench.send(("u-1", 2))
            await eventually(lambda: 2 in broken.committed and 2 in other.committed)
    assert broken.committed == [1, 2]
    assert other.committed == [1, 2]
    [letter] = await bench.letters()
    assert letter.replayed_at is not None
    assert {header(record, "ce_id") for record in replayed} == {str(letter.event_id)}


async def test_a_replay_that_fails_again_is_a_dead_letter_again(make_bench: MakeBench) -> None:
    bench, effects = await make_bench(), Effects(poison(1))
    await bench.send(("u-1", 1))
    async with running(bench.consumer(effects).run):
        await eventually(bench.letters)
        assert await dead_letters.replay(bench.settings, bench.database, TOPIC, GROUP) == 1
        [letter] = await bench.letters()
        assert letter.replayed_at is not None
        assert await bench.relay.relay_once() == 2  # `.dlq` is told, and the replay goes out
        await eventually(lambda: _unreplayed(bench))
    assert await dead_letters.replay(bench.settings, bench.database, TOPIC, GROUP) == 1


async def test_nobody_can_bury_an_event_that_took_effect(make_bench: MakeBench) -> None:
    """A bad record under the id of a good one changes nothing of what that did."""
    bench, effects = await make_bench(), Effects()
    await bench.send(("u-1", 1))
    [record] = await read_topic(bench.settings.kafka_brokers, bench.topic, 1)
    async with running(bench.consumer(effects).run):
        await eventually(lambda: bench.has(1))
        await produce(bench.settings.kafka_brokers, bench.topic, [(record.key, b"bad", record.headers)])
        await bench.send(("u-1", 2))
        await eventually(lambda: bench.has(2))
    assert await bench.letters() == []
    assert await bench.effects() == [1, 2]


async def test_while_what_the_handler_needs_is_away_nothing_is_counted(make_bench: MakeBench) -> None:
    bench, away = await make_bench(kafka_retry_seconds_max=0.1), [True]

    def fail(record: Record) -> None:
        if away[0]:
            raise Unavailable

    effects = Effects(fail)
    await bench.send(("u-1", 1), ("u-2", 2))
    async with running(bench.consumer(effects).run):
        await eventually(lambda: len(effects.calls) > bench.settings.consumer_attempts_max, seconds=15)
        away[0] = False
        await eventually(lambda: bench.has(2))
    assert await bench.letters() == []


async def test_a_lost_connection_to_postgres_loses_and_doubles_nothing(make_bench: MakeBench) -> None:
    bench, effects = await make_bench(kafka_poll_records_max=3), Effects()
    await bench.send(*((f"u-{number % 7}", number) for number in range(1, 121)))

    cuts = iter(range(10))

    async def all_there() -> bool:
        if next(cuts, None) is not None:
            await _cut_connections(bench.settings.database_url)
            await asyncio.sleep(0.05)
        try:
            return await bench.has(120)
        except Unavailable:
            return False

    async with running(bench.consumer(effects).run):
        await eventually(all_there, seconds=30)
    await eventually(lambda: bench.database.ready)
    assert sorted(await bench.effects()) == list(range(1, 121))
    assert await bench.letters() == []


async def test_a_row_that_somebody_holds_is_no_fault_of_the_record(make_bench: MakeBench) -> None:
    bench = await make_bench(lock_timeout_ms=50)
    async with bench.database.connection() as conn:
        await conn.execute("INSERT INTO effects (key, number) VALUES ('held', 0)")

    class Locking(Effects):
        async def handle(self, conn: Conn, records: Sequence[Record]) -> Callable[[], Awaitable[None]]:
            for record in records:
                await conn.execute("UPDATE effects SET number = number WHERE key = $1", record.key)
            return await super().handle(conn, records)

    effects = Locking()
    await bench.send(("held", 1), ("free", 2))
    async with running(bench.consumer(effects).run):
        async with bench.database.transaction() as conn:
            await conn.execute("SELECT 1 FROM effects WHERE key = 'held' FOR UPDATE")
            await eventually(lambda: effects.committed == [2])
            await asyncio.sleep(0.5)
        await eventually(lambda: sorted(effects.committed) == [1, 2], seconds=10)
    assert await bench.letters() == []


async def test_a_handler_that_raises_bad_record_is_not_asked_again(make_bench: MakeBench) -> None:
    bench = await make_bench()
    effects = Effects(poison(1, error=BadRecord("no_such_user", "u-1")))
    await bench.send(("u-1", 1))
    async with running(bench.consumer(effects).run):
        await eventually(bench.letters)
    [letter] = await bench.letters()
    assert (letter.reason, letter.tries, effects.calls) == ("no_such_user", 1, [[1]])


async def test_a_handler_that_hangs_is_a_failure_of_its_record(make_bench: MakeBench) -> None:
    bench = await make_bench(consumer_handler_seconds=0.1, consumer_attempts_max=2)

    class Hanging(Effects):
        async def handle(self, conn: Conn, records: Sequence[Record]) -> Callable[[], Awaitable[None]]:
            if any(record.key == "slow" for record in records):
                await asyncio.sleep(30)
            return await super().handle(conn, records)

    await bench.send(("slow", 1), ("u-2", 2))
    async with running(bench.consumer(Hanging()).run):
        await eventually(bench.letters)
    assert await bench.effects() == [2]
    [letter] = await bench.letters()
    assert "HandlerTooSlow" in letter.error


async def test_what_follows_a_commit_may_fail(make_bench: MakeBench) -> None:
    bench = await make_bench()

    class Forgetful(Effects):
        async def handle(self, conn: Conn, records: Sequence[Record]) -> Callable[[], Awaitable[None]]:
            await super().handle(conn, records)

            async def after() -> None:
                raise RuntimeError("the cache is away")

            return after

    await bench.send(("u-1", 1))
    async with running(bench.consumer(Forgetful()).run):
        await eventually(lambda: bench.has(1))
        await bench.send(("u-1", 2))
        await eventually(lambda: bench.has(2))
    assert await bench.effects() == [1, 2]


async def test_a_record_that_waits_for_its_next_try_survives_a_restart(make_bench: MakeBench) -> None:
    bench = await make_bench(partitions=1, consumer_retry_seconds=30)
    effects = Effects(poison(1))
    await bench.send(("u-1", 1), ("u-1", 2), ("u-2", 3))
    async with running(bench.consumer(effects).run):
        await eventually(lambda: effects.committed == [3])
    effects.fail = lambda record: None
    async with running(bench.consumer(effects).run):
        await eventually(lambda: effects.committed == [3, 1, 2])


async def test_members_come_and_go_and_no_effect_is_lost_or_doubled(make_bench: MakeBench) -> None:
    bench, effects = await make_bench(partitions=6), Effects()
    async with running(bench.consumer(effects).run):
        for turn in range(3):
            async with running(bench.consumer(effects).run):
                for number in range(20):
                    await bench.send((f"u-{number}", turn * 20 + number))
        await eventually(lambda: bench.has(60), seconds=20)
    assert sorted(await bench.effects()) == list(range(60))


async def test_a_consumer_that_is_stuck_is_replaced(make_bench: MakeBench) -> None:
    bench = await make_bench(consumer_stall_seconds=1, consumer_lag_seconds=0.1)
    effects = Effects()
    consumer = bench.consumer(effects)
    async with running(consumer.run):
        await bench.send(("u-1", 1))
        await eventually(lambda: bench.has(1))
        stuck: Any = consumer._watch._source
        stuck._consumer._fetcher._fetch_task.cancel()  # a member of the group that never returns a record again
        for number in (2, 3):  # a fetch under way may still bring one
            await bench.send(("u-1", number))
            await eventually(lambda number=number: bench.has(number), seconds=20)
        assert consumer._watch._source is not stuck


async def test_the_lag_is_told_in_records_and_seconds(make_bench: MakeBench) -> None:
    bench = await make_bench(partitions=1, consumer_lag_seconds=0.05, consumer_retry_seconds=30)
    effects = Effects(poison(1))
    labels = (bench.topic, "0", GROUP)
    async with running(bench.consumer(effects).run):
        await bench.send(("u-1", 1), ("u-2", 2), ("u-1", 3))
        messages = instruments.CONSUMER_LAG_MESSAGES.labels(*labels)._value
        seconds = instruments.CONSUMER_LAG_SECONDS.labels(*labels)._value
        await eventually(lambda: effects.committed == [2])
        await eventually(lambda: messages.get() == 3 and seconds.get() > 0.3)  # from the oldest unfinished one on
    effects.fail = lambda record: None
    async with running(bench.consumer(effects).run):
        await eventually(lambda: effects.committed == [2, 1, 3])
        messages = instruments.CONSUMER_LAG_MESSAGES.labels(*labels)._value
        await eventually(lambda: messages.get() == 0)


async def test_a_missing_topic_is_waited_for(make_bench: MakeBench, make_topics: MakeTopics) -> None:
    bench = await make_bench(kafka_start_seconds=0.5, kafka_session_timeout_ms=6_000, kafka_retry_seconds_max=0.2)
    effects = Effects()
    late = Consumer(bench.settings, bench.database, group=GROUP, topics=["point.late"], handle=effects.handle)
    async with running(late.run):
        await asyncio.sleep(0.3)
        await make_topics({"point.late": 1})
        await produce(
            bench.settings.kafka_brokers,
            f"{bench.settings.topic_prefix}point.late",
            [(b"k", _value_of(1), [("ce_id", str(uuid4()).encode())])],
        )
        await eventually(lambda: bench.has(1), seconds=20)


def _value_of(number: int) -> bytes:
    return render.to_json(make_event(number=number).message)


async def _count(bench: Bench, count: int) -> bool:
    return len(await bench.letters()) == count


async def _unreplayed(bench: Bench) -> bool:
    return [letter.replayed_at for letter in await bench.letters()] == [None]


async def _cut_connections(url: str) -> None:
    """Ends every other session of the database, as a restart of Postgres does."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    finally:
        await conn.close()
