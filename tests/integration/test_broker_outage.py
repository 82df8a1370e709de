"""Kafka away: frozen, killed, emptied. No request notices; nothing is lost, and each key keeps its order."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import outbox
from infra.local.ports import free_ports
from infra.local.servers import Server, create_topics, start_kafka
from tests.conftest import MakeDatabase
from tests.fixtures.consuming import TOPIC, Bench, Effects, bench_maker
from tests.fixtures.events import make_event, read_topic, running
from tests.fixtures.waiting import eventually
from tests.integration.test_outbox import first_deliveries

KEYS = [f"u-{number}" for number in range(5)]
BACK_SECONDS = 30.0  # a client may take ten seconds to come back


@dataclass
class Broker:
    """A Kafka of this test's own."""

    server: Server
    state: Path
    ports: tuple[int, int]

    def freeze(self) -> None:
        os.kill(self.server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)

    async def kill(self) -> None:
        self.server.child.kill()
        await self.server.stop()

    async def start(self) -> None:
        self.server = await start_kafka(self.state, *self.ports)


@pytest.fixture(scope="module")
async def own_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    state, ports = tmp_path_factory.mktemp("broker"), free_ports(2)
    broker = Broker(await start_kafka(state, *ports), state, (ports[0], ports[1]))
    yield broker
    await broker.kill()


@pytest.fixture
async def broker(own_broker: Broker) -> AsyncIterator[Broker]:
    """Running, whatever the test before did to it."""
    if own_broker.server.child.exit_code() is not None:
        await own_broker.start()
    yield own_broker
    if own_broker.server.child.exit_code() is None:
        own_broker.thaw()


@asynccontextmanager
async def bench_on(broker: Broker, make_database: MakeDatabase, prefix: str) -> AsyncIterator[Bench]:
    async def make_topics(partitions: Mapping[str, int]) -> None:
        await create_topics(broker.server.url, {f"{prefix}{topic}": count for topic, count in partitions.items()})

    async with bench_maker(make_database, make_topics, broker.server.url, prefix) as make:
        yield await make(kafka_send_seconds=1, kafka_request_timeout_ms=1_500, kafka_session_timeout_ms=6_000)


@dataclass
class Writer:
    """A request after the other, until it is stopped."""

    bench: Bench
    written: int = 0
    slowest: float = 0.0
    going: bool = True

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.going:
            started = loop.time()
            async with self.bench.database.transaction() as conn:
                await outbox.add(conn, [make_event(key, self.written + 1) for key in KEYS])
            self.written += 1
            self.slowest = max(self.slowest, loop.time() - started)
            self.bench.relay.wake()
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """For a block; then the last request is answered."""
        async with running(self.run) as [task]:
            try:
                yield
            finally:
                self.going = False
                await task

    @property
    def events(self) -> int:
        return self.written * len(KEYS)


async def unsent(bench: Bench) -> int:
    async with bench.database.connection() as conn:
        return int(await conn.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL"))


async def all_sent(bench: Bench) -> bool:
    return await unsent(bench) == 0


async def in_order_and_once(bench: Bench, writer: Writer, effects: Effects) -> None:
    await eventually(lambda: all_sent(bench), seconds=BACK_SECONDS)
    await eventually(lambda: bench.has(writer.events), seconds=BACK_SECONDS)
    for key in KEYS:
        assert await bench.effects(key) == list(range(1, writer.written + 1))
    records = await read_topic(bench.settings.kafka_brokers, bench.topic, writer.events)
    assert first_deliveries(records) == {key: list(range(1, writer.written + 1)) for key in KEYS}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", ["frozen", "killed"])
async def test_a_broker_that_was_away_costs_no_request_no_event_and_no_order(
    broker: Broker, make_database: MakeDatabase, topic_prefix: str, fault: str
) -> None:
    async with bench_on(broker, make_database, topic_prefix) as bench:
        effects, writer = Effects(), Writer(bench)
        async with running(bench.relay.run, bench.consumer(effects).run):
            async with writer.writing():
                await eventually(lambda: bench.has(50), seconds=BACK_SECONDS)
                if fault == "frozen":
                    broker.freeze()
                else:
                    await broker.kill()
                await eventually(lambda: _pending(bench, 500), seconds=BACK_SECONDS)
                await asyncio.sleep(2 * bench.settings.kafka_send_seconds)  # longer than a send may take
                if fault == "frozen":
                    broker.thaw()
                else:
                    await broker.start()
            await in_order_and_once(bench, writer, effects)
        assert writer.slowest < 1.0


@pytest.mark.timeout(120)
async def test_what_an_emptied_broker_lost_is_sent_again_from_the_outbox(
    broker: Broker, make_database: MakeDatabase, topic_prefix: str
) -> None:
    """A surviving producer would be acked at offset 0 for records that are in no log."""
    async with bench_on(broker, make_database, topic_prefix) as bench:
        effects, writer = Effects(), Writer(bench)
        async with running(bench.relay.run):
            async with writer.writing():
                await eventually(lambda: writer.events >= 50)
                await eventually(lambda: all_sent(bench))
                await broker.kill()
                shutil.rmtree(broker.state / "kafka")
                await broker.start()
                await create_topics(broker.server.url, {bench.topic: 3, f"{bench.topic}.dlq": 1})
                before = writer.events
                await eventually(lambda: writer.events > before + 50)
            await eventually(lambda: all_sent(bench), seconds=BACK_SECONDS)
            async with bench.database.connection() as conn:
                since = await conn.fetchval("SELECT min(created_at) FROM outbox")
            await outbox.replay(bench.database, TOPIC, since)
            await eventually(lambda: all_sent(bench), seconds=BACK_SECONDS)
            async with running(bench.consumer(effects).run):
                await eventually(lambda: bench.has(writer.events), seconds=BACK_SECONDS)
        for key in KEYS:
            assert sorted(await bench.effects(key)) == list(range(1, writer.written + 1))


async def _pending(bench: Bench, count: int) -> bool:
    return await unsent(bench) >= count
