"""The timesale service as its operators start it: two processes of it on real servers, from migration to the end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from infra.local.ports import free_ports
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.calls import refused, rows
from tests.fixtures.databases import set_clock
from tests.fixtures.timesales import Client, topics
from tests.fixtures.waiting import eventually
from timesale.settings import TimesaleSettings

TOPICS = ("timesale.created", "timesale.started", "timesale.soldout", "timesale.ended", "order.created")


@pytest.fixture
async def environment(
    make_database: MakeDatabase,
    make_topics: MakeTopics,
    redis_url: str,
    kafka_brokers: str,
    topic_prefix: str,
    repository: Path,
) -> dict[str, str]:
    await make_topics(dict.fromkeys(TOPICS, 3))
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(repository),
        "PYTHONWARNINGS": "error",
        "TIMESALE_DATABASE_URL": await make_database(),
        "REDIS_URL": redis_url,
        "KAFKA_BROKERS": kafka_brokers,
        "TOPIC_PREFIX": topic_prefix,
        "TRACING_ENABLED": "false",
        "DRAIN_NOTICE_SECONDS": "0",
    }


async def command(environment: dict[str, str], *words: str) -> tuple[int, str]:
    """Exit code and standard output of `python -m timesale ...`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "timesale", *words), env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode()


@asynccontextmanager
async def serving(environment: dict[str, str]) -> AsyncIterator[Client]:
    """A client of a process that serves, and ends cleanly."""
    port, operations_port = free_ports(2)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "timesale", "serve"),
        env={**environment, "GRPC_PORT": str(port), "OPERATIONS_PORT": str(operations_port)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: is_ready(operations_port), seconds=20)
        client = Client(f"127.0.0.1:{port}", TimesaleSettings())
        yield client
        await client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0, out.decode()


async def is_ready(port: int) -> bool:
    try:
        async with httpx2.AsyncClient() as client:
            return bool((await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200)
    except httpx2.TransportError:
        return False


async def test_two_processes_sell_sweep_and_tell(
    environment: dict[str, str], kafka_brokers: str, topic_prefix: str
) -> None:
    assert "timesale/0001_sales" in (await command(environment, "migrate"))[1]
    database_url = environment["TIMESALE_DATABASE_URL"]
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(serving(environment)) for _ in range(2)]
        sale = await first.make_sale(2)
        orders = await asyncio.gather(first.order(sale.id, "u-1"), second.order(sale.id, "u-2"))
        assert sorted(reply.message.queue_number for reply in orders) == [1, 2]
        assert (await refused(second.order(sale.id, "u-3"))).code == "SOLD_OUT"
        await set_clock(database_url, "clock_timestamp() + interval '2 hours'")

        async def is_swept() -> bool:
            return (await topics(database_url, sale.id))[-1] == "timesale.ended"

        await eventually(is_swept, seconds=10)
        told = await read(kafka_brokers, topic_prefix, count=6)
    assert sorted(told) == sorted([*TOPICS, "order.created"])
    assert told.index("timesale.created") < told.index("order.created")
    code, out = await command(environment, "invariants", "--json")
    assert (code, orjson.loads(out)["broken"]) == (0, [])
    await rows(database_url, "DELETE FROM buyers")
    assert (await command(environment, "invariants"))[0] == 1


async def read(brokers: str, prefix: str, *, count: int) -> list[str]:
    """The topics of the first records, by their time."""
    consumer: Any = AIOKafkaConsumer(
        *(f"{prefix}{topic}" for topic in TOPICS), bootstrap_servers=brokers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(10):
            records = [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()
    return [record.topic.removeprefix(prefix) for record in sorted(records, key=lambda record: record.timestamp)]
