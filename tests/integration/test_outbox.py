"""Events are rows first, and leave in order by one relay per database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat
from opentelemetry.trace import SpanKind

from infra import outbox, postgres, telemetry
from infra.local.ports import free_ports
from infra.outbox.relay import LOCK
from infra.postgres import Database
from infra.settings import WorkerSettings
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.databases import INFRA
from tests.fixtures.events import count_records, header, make_event, read_topic, running, worker_settings
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually

SOURCE = "/promo/point-service"
LOCK_HOLDERS = (
    "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE locktype = 'advisory' AND granted AND datname = current_database()"
)
MakeSettings = Callable[..., Awaitable[WorkerSettings]]


@pytest.fixture
async def make_settings(
    make_database: MakeDatabase, make_topics: MakeTopics, kafka_brokers: str, topic_prefix: str
) -> MakeSettings:
    """Settings of a worker with a fresh database and topic `point.earned` of three partitions."""

    async def make(**given: object) -> WorkerSettings:
        await make_topics({"point.earned": 3})
        url = await make_database(INFRA)
        return worker_settings(
            **{"database_url": url, "kafka_brokers": kafka_brokers, "topic_prefix": topic_prefix, **given}
        )

    return make


async def unsent(database: Database) -> int:
    async with database.connection() as conn:
        return int(await conn.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL"))


async def write(database: Database, *numbers: int, key: str = "u-1") -> None:
    async with database.transaction() as conn:
        await outbox.add(conn, [make_event(key, number) for number in numbers])


async def test_an_event_is_sent_if_and_only_if_its_change_was_committed(make_settings: MakeSettings) -> None:
    settings = await make_settings()
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        await write(database, 1)
        with pytest.raises(RuntimeError):
            async with database.transaction() as conn:
                await outbox.add(conn, [make_event(number=2)])
                raise RuntimeError
        await write(database, 3)
        assert await relay.relay_once() == 2
        assert await relay.relay_once() == 0
        await relay.close()
    topic = f"{settings.topic_prefix}point.earned"
    records = await read_topic(settings.kafka_brokers, topic, 2)
    assert [b'"amount":1,' in record.value for record in records] == [True, False]
    assert await count_records(settings.kafka_brokers, topic) == 2


async def test_a_record_is_a_cloud_event_in_binary_mode(make_settings: MakeSettings) -> None:
    settings = await make_settings()
    at = datetime(2026, 5, 1, 9, 0, 0, 120_000, tzinfo=UTC)
    async with postgres.open(settings) as database:
        async with database.transaction() as conn:
            await outbox.add(conn, [make_event("u-7", 50, traceparent=f"00-{'a' * 32}-{'b' * 16}-00")], at)
            event_id = await conn.fetchval("SELECT event_id FROM outbox")
        relay = outbox.Relay(settings, database, source=SOURCE)
        assert await relay.relay_once() == 1
        await relay.close()
    [record] = await read_topic(settings.kafka_brokers, f"{settings.topic_prefix}point.earned", 1)
    event = from_binary_event(KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat())
    assert (event.get_id(), event.get_source(), event.get_type()) == (str(event_id), SOURCE, "point.earned")
    assert (event.get_subject(), event.get_specversion(), event.get_time()) == ("u-7", "1.0", at)
    assert event.get_dataschema() == "promo.events.v1.PointEarned"
    assert event.get_datacontenttype() == "application/json"
    data = event.get_data()
    assert isinstance(data, dict)
    assert data["amount"] == 50
    assert record.key == b"u-7"
    assert header(record, "traceparent") == f"00-{'a' * 32}-{'b' * 16}-00"


async def test_a_committed_row_leaves_at_once_when_the_relay_is_woken(make_settings: MakeSettings) -> None:
    settings = await make_settings(relay_poll_seconds=30)
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        async with running(relay.run):
            await write(database, 1)
            await eventually(lambda: _none_unsent(database))
            loop = asyncio.get_running_loop()
            started = loop.time()
            await write(database, 2)
            relay.wake()
            await eventually(lambda: _none_unsent(database))
            assert loop.time() - started < 0.5  # the next look at the table would be up to a second away


async def test_what_was_committed_before_the_end_still_leaves(make_settings: MakeSettings) -> None:
    settings = await make_settings(relay_poll_seconds=30)
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        async with running(relay.run):
            await write(database, 1)
            await eventually(lambda: _none_unsent(database))
            await write(database, 2)
        assert await unsent(database) == 0


async def test_each_key_keeps_its_order_though_one_of_two_relays_is_killed(make_settings: MakeSettings) -> None:
    settings = await make_settings(relay_size_max=40, relay_lock_retry_seconds=0.1)
    keys = [f"u-{number}" for number in range(20)]
    async with postgres.open(settings) as database:
        relays = [outbox.Relay(settings, database, source=SOURCE) for _ in range(2)]
        async with running(relays[1].run) as second, running(relays[0].run):
            for number in range(1, 31):
                async with database.transaction() as conn:
                    await outbox.add(conn, [make_event(key, number) for key in keys])
                if number == 15:  # the connection that holds the lock dies: whoever leads now is cut off in the middle
                    await kill_leader(settings.database_url)
            await eventually(lambda: _none_unsent(database), seconds=20)
            assert not second[0].done()
    records = await read_topic(settings.kafka_brokers, f"{settings.topic_prefix}point.earned", len(keys) * 30)
    assert first_deliveries(records) == {key: list(range(1, 31)) for key in keys}
    topic = f"{settings.topic_prefix}point.earned"
    repeated = await count_records(settings.kafka_brokers, topic) - len(keys) * 30
    assert repeated <= settings.relay_size_max  # what the one that was cut off had sent and not marked


async def test_rows_that_commit_late_are_sent_too(make_settings: MakeSettings) -> None:
    settings = await make_settings()
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        async with database.transaction() as slow:
            await outbox.add(slow, [make_event("late", 1)])
            await write(database, 2, key="early")
            assert await relay.relay_once() == 1
        assert await relay.relay_once() == 1
        await relay.close()


async def test_the_lock_is_held_on_a_connection_of_its_own(make_settings: MakeSettings) -> None:
    settings = await make_settings(pool_size_max=1)
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        async with running(relay.run):
            await eventually(lambda: _lock_holders(database))
            for _ in range(5):  # the pool hands its only connection out and takes it back; the lock stays
                await write(database, 1)
            holders = await _lock_holders(database)
            async with database.connection() as conn:
                assert holders == 1
                assert await conn.fetchval("SELECT pg_backend_pid()") != await conn.fetchval(LOCK_HOLDERS)
                assert await conn.fetchval("SELECT pg_try_advisory_lock($1)", LOCK) is False


async def test_a_frozen_leader_loses_its_lock_and_another_relay_goes_on(make_settings: MakeSettings) -> None:
    """It pings no more, so the server ends its session; what it then finds is that it leads no longer."""
    settings = await make_settings(relay_lock_retry_seconds=0.1)
    asleep = {"relay_ping_seconds": 30, "relay_poll_seconds": 30, "relay_idle_session_timeout_ms": 300}
    async with postgres.open(settings) as database:
        frozen = outbox.Relay(settings.model_copy(update=asleep), database, source=SOURCE)
        other = outbox.Relay(settings, database, source=SOURCE)
        async with running(frozen.run):
            await eventually(lambda: _lock_holders(database))
            async with running(other.run):
                await write(database, 1)
                await eventually(lambda: _none_unsent(database))
                frozen.wake()
                await write(database, 2)
                await eventually(lambda: _none_unsent(database))
                assert await _lock_holders(database) == 1
    assert await count_records(settings.kafka_brokers, f"{settings.topic_prefix}point.earned") == 2


async def test_events_can_be_sent_again_with_their_ids(make_settings: MakeSettings) -> None:
    settings = await make_settings()
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        await write(database, 1, 2)
        await relay.relay_once()
        async with database.connection() as conn:
            since = await conn.fetchval("SELECT platform_now()")
        await write(database, 3)
        await relay.relay_once()
        assert await outbox.replay(database, "point.earned", since) == 1
        assert await outbox.replay(database, "point.spent", since) == 0
        assert await relay.relay_once() == 1
        await relay.close()
    records = await read_topic(settings.kafka_brokers, f"{settings.topic_prefix}point.earned", 4)
    assert len({header(record, "ce_id") for record in records}) == 3
    assert [b'"amount":3,' in record.value for record in records] == [False, False, True, True]


async def test_rows_wait_while_no_broker_answers(make_settings: MakeSettings) -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    settings = await make_settings(kafka_brokers=nowhere, kafka_start_seconds=0.5, kafka_send_seconds=0.5)
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        await write(database, 1)
        assert await relay.relay_once() == 0
        assert await unsent(database) == 1
        await relay.close()


async def test_a_send_hangs_under_its_own_request_and_links_to_the_round(
    make_settings: MakeSettings, spans: Spans
) -> None:
    settings = await make_settings()
    async with postgres.open(settings) as database:
        relay = outbox.Relay(settings, database, source=SOURCE)
        with telemetry.root("request") as request:
            async with database.transaction() as conn:
                await outbox.add(conn, [make_event("u-1")])
        await write(database, 2, key="nobody's request")
        await relay.relay_once()
        await relay.relay_once()  # an empty round is no span
        await relay.close()
    [round_] = spans.named("relay outbox")
    [send] = spans.named(f"send {settings.topic_prefix}point.earned")
    assert send.parent is not None
    assert send.parent.span_id == request.get_span_context().span_id
    assert [link.context for link in send.links] == [round_.get_span_context()]
    assert send.kind is SpanKind.PRODUCER
    assert send.attributes is not None
    assert send.attributes["messaging.kafka.message.key"] == "u-1"
    assert {"messaging.kafka.offset", "messaging.destination.partition.id", "promo.outbox.age_ms"} <= set(
        send.attributes
    )
    assert sorted(child.name for child in spans.children_of(round_)) == ["SELECT outbox", "UPDATE outbox"]
    records = await read_topic(settings.kafka_brokers, f"{settings.topic_prefix}point.earned", 2)
    sent = [header(record, "traceparent") for record in records if record.key == b"u-1"]
    context = send.get_span_context()
    assert context is not None
    assert sent == [telemetry.traceparent(context)]


async def test_an_outage_makes_one_failed_span_per_row_and_then_a_good_one(
    make_settings: MakeSettings, spans: Spans
) -> None:
    settings = await make_settings()
    nowhere = settings.model_copy(
        update={"kafka_brokers": f"127.0.0.1:{free_ports(1)[0]}", "kafka_start_seconds": 0.5, "kafka_send_seconds": 1}
    )
    async with postgres.open(settings) as database:
        with telemetry.root("request"):
            async with database.transaction() as conn:
                await outbox.add(conn, [make_event("u-1")])
        away = outbox.Relay(nowhere, database, source=SOURCE)
        for _ in range(3):
            assert await away.relay_once() == 0
        await away.close()
        relay = outbox.Relay(settings, database, source=SOURCE)
        assert await relay.relay_once() == 1
        await relay.close()
    sends = spans.named(f"send {settings.topic_prefix}point.earned")
    assert [span.status.is_ok or span.status.is_unset for span in sends] == [False, True]


async def _none_unsent(database: Database) -> bool:
    return await unsent(database) == 0


async def _lock_holders(database: Database) -> int:
    async with database.connection() as conn:
        return int(await conn.fetchval(f"SELECT count(pid) FROM ({LOCK_HOLDERS}) AS holders"))


async def kill_leader(url: str) -> None:
    """Ends the session that holds the relay's lock."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(f"SELECT pg_terminate_backend(pid) FROM ({LOCK_HOLDERS}) AS holders")
    finally:
        await conn.close()


def first_deliveries(records: list[Any]) -> dict[str, list[int]]:
    """Per key the amounts in the order in which each came first."""
    found: dict[str, list[int]] = {}
    for record in records:
        amount = orjson.loads(record.value)["amount"]
        of_key = found.setdefault(record.key.decode(), [])
        if amount not in of_key:
            of_key.append(amount)
    return found
