"""The subscribe API for programs outside the platform, and the example that uses it."""

import asyncio
import signal
import sys
from pathlib import Path

import asyncpg
import orjson

from infra import outbox, postgres, subscribe
from infra.events import Event
from infra.subscribe import Conn, Record
from protos.coupon.v1 import coupon_pb2
from protos.events.v1 import coupon_events_pb2, point_events_pb2
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.databases import INFRA
from tests.fixtures.events import header, make_event, read_topic, running, worker_settings
from tests.fixtures.waiting import eventually

SUBSCRIBE = INFRA.parent / "subscribe"
GROUP = "mailer"


async def send(url: str, brokers: str, prefix: str, *events: Event) -> None:
    """As a worker does: through the outbox of its own database."""
    settings = worker_settings(database_url=url, kafka_brokers=brokers, topic_prefix=prefix)
    async with postgres.open(settings) as database:
        async with database.transaction() as conn:
            await outbox.add(conn, list(events))
        relay = outbox.Relay(settings, database, source="/promo/point-service")
        assert await relay.relay_once() == len(events)
        await relay.close()


async def test_a_program_gets_each_event_once_and_its_dead_letters_again(
    make_database: MakeDatabase, make_topics: MakeTopics, kafka_brokers: str, topic_prefix: str
) -> None:
    await make_topics({"point.earned": 3, "point.earned.dlq": 1})
    settings = subscribe.settings(
        "mailer",
        database_url=await make_database(),
        kafka_brokers=kafka_brokers,
        topic_prefix=topic_prefix,
        consumer_retry_seconds=0.02,
    )
    assert await subscribe.migrate(settings) == ["infra/0001_subscribe"]
    assert await subscribe.migrate(settings) == []
    handled: list[int] = []
    bad = {2}

    async def handle(conn: Conn, event: Record) -> None:
        number = event.message(point_events_pb2.PointEarned).amount
        if number in bad:
            raise RuntimeError(f"no {number}")
        handled.append(number)

    worker = await make_database(INFRA)
    await send(worker, kafka_brokers, topic_prefix, make_event("a", 1), make_event("b", 2), make_event("c", 3))
    async with postgres.open(settings) as pool:

        async def run() -> None:
            await subscribe.run(settings, pool, group=GROUP, topics=["point.earned"], handle=handle)

        async with running(run):
            [dead] = await read_topic(kafka_brokers, f"{topic_prefix}point.earned.dlq", 1)
            await eventually(lambda: sorted(set(handled)) == [1, 3])
            assert (header(dead, "dlq-group"), dead.key) == (GROUP, b"b")
            [letter] = await subscribe.dead_letters(pool, topic="point.earned", group=GROUP)
            assert "no 2" in letter.error
            bad.clear()
            assert await subscribe.replay(settings, pool, topic="point.earned", group=GROUP) == 1
            await eventually(lambda: 2 in handled)
        async with pool.connection() as conn:
            assert await conn.fetchval("SELECT count(*) FROM inbox WHERE outcome = 'done'") == 3


async def test_the_example_writes_one_mail_per_coupon(
    make_database: MakeDatabase, make_topics: MakeTopics, kafka_brokers: str, topic_prefix: str, repository: Path
) -> None:
    await make_topics({"coupon.issued": 3, "coupon.issued.dlq": 1})
    url = await make_database()
    arguments = ["--database-url", url, "--kafka-brokers", kafka_brokers, "--topic-prefix", topic_prefix]
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.examples.coupon_mail", *arguments,
        cwd=repository, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await send(await make_database(INFRA), kafka_brokers, topic_prefix, issued(7), issued(8))
        await eventually(lambda: _mails(url, [7, 8]), seconds=30)
    finally:
        program.send_signal(signal.SIGINT)
        output, _ = await program.communicate()
    assert program.returncode == 0
    lines = [orjson.loads(line) for line in output.splitlines()]
    assert sorted(line["coupon_id"] for line in lines if line["event"] == "mail.written") == [7, 8]


async def test_the_tables_of_a_subscription_are_those_of_a_worker(make_database: MakeDatabase) -> None:
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_name IN ('outbox', 'inbox', 'dead_letters') ORDER BY table_name, ordinal_position"
    )
    constraints = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid IN (SELECT oid FROM pg_class WHERE relname IN ('outbox', 'inbox', 'dead_letters')) ORDER BY 1"
    )
    indexes = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('outbox', 'inbox', 'dead_letters') ORDER BY 1"
    )
    found = []
    for folder in (INFRA, SUBSCRIBE):
        conn = await asyncpg.connect(await make_database(folder))
        found.append([await conn.fetch(query) for query in (columns, constraints, indexes)])
        await conn.close()
    assert found[0] == found[1]


def issued(number: int) -> Event:
    message = coupon_events_pb2.CouponIssued(
        id=number, coupon_id=number, user_id="u-1", status=coupon_pb2.COUPON_STATUS_AVAILABLE
    )
    times = (message.issued_at, message.expiration_time, message.policy.start_time, message.policy.end_time)
    for time in (*times, message.policy.created_at):
        time.FromJsonString("2026-05-01T09:00:00Z")
    return Event("coupon.issued", str(number), message)


async def _mails(url: str, wanted: list[int]) -> bool:
    conn = await asyncpg.connect(url)
    try:
        if await conn.fetchval("SELECT to_regclass('mails')") is None:
            return False
        return [row["coupon_id"] for row in await conn.fetch("SELECT coupon_id FROM mails ORDER BY 1")] == wanted
    finally:
        await conn.close()
