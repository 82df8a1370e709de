"""The real servers start, answer, keep what they were told, and end cleanly."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from infra.local.failures import StartFailed
from infra.local.ports import free_ports
from infra.local.servers import (
    Server,
    create_topics,
    start_etcd,
    start_kafka,
    start_postgres,
    start_valkey,
)
from infra.local.servers.postgres import forget_postgres


class Servers:
    """The servers a test started, ended after it."""

    def __init__(self) -> None:
        self.started: list[Server] = []

    def __iadd__(self, server: Server) -> "Servers":
        self.started.append(server)
        return self


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    made = Servers()
    yield made
    for server in made.started:
        await server.stop()


async def test_postgres_keeps_what_was_committed_when_it_is_killed(servers: Servers, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    first = await start_postgres(tmp_path, port)
    servers += first
    connection = await asyncpg.connect(f"{first.url}/postgres")
    await connection.execute("CREATE TABLE kept (number int)")
    await connection.execute("INSERT INTO kept VALUES (7)")
    durable = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
    connection.terminate()
    first.child.kill()
    again = await start_postgres(tmp_path, port)
    servers += again
    connection = await asyncpg.connect(f"{again.url}/postgres")
    kept = await connection.fetchval("SELECT number FROM kept")
    await connection.close()
    await again.stop()
    forget_postgres(tmp_path)

    assert kept == 7
    assert durable == {"fsync": "on", "synchronous_commit": "on"}
    assert again.child.exit_code() == 0


async def test_a_fast_postgres_commits_synchronously_and_leaves_no_home_behind(
    servers: Servers, tmp_path: Path
) -> None:
    server = await start_postgres(tmp_path, free_ports(1)[0], fast=True)
    servers += server
    connection = await asyncpg.connect(f"{server.url}/postgres")
    settings = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
    home = Path(str(await connection.fetchval("SHOW data_directory")))
    await connection.close()
    await server.stop()

    assert settings == {"fsync": "off", "synchronous_commit": "on"}
    assert home.is_relative_to(tmp_path) or not home.exists()  # noqa: ASYNC240 - a test may look at a file


async def test_postgres_ends_while_clients_are_connected(servers: Servers, tmp_path: Path) -> None:
    server = await start_postgres(tmp_path, free_ports(1)[0], fast=True)
    servers += server
    connection = await asyncpg.connect(f"{server.url}/postgres")
    await asyncio.wait_for(server.stop(), 5)
    connection.terminate()

    assert server.child.exit_code() == 0


async def test_a_second_postgres_on_a_taken_port_is_one_line(servers: Servers, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    servers += await start_postgres(tmp_path / "one", port, fast=True)

    with pytest.raises(StartFailed, match=r"^postgres ended at its start: "):
        await start_postgres(tmp_path / "two", port, fast=True)


async def test_valkey_keeps_its_keys_over_a_restart(servers: Servers, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    first = await start_valkey(tmp_path, port)
    servers += first
    async with Redis.from_url(first.url, protocol=2) as client:
        await client.set("kept", "7")
    await first.stop()
    servers += await start_valkey(tmp_path, port)
    async with Redis.from_url(first.url, protocol=2) as client:
        assert await client.get("kept") == b"7"
    assert first.child.exit_code() == 0


async def test_kafka_keeps_its_records_when_it_is_killed_and_ends_cleanly(servers: Servers, tmp_path: Path) -> None:
    port, controller = free_ports(2)
    first = await start_kafka(tmp_path, port, controller)
    servers += first
    await create_topics(first.url, {"some": 3})
    await create_topics(first.url, {"some": 3, "other": 1})  # what is there is no error
    producer = AIOKafkaProducer(bootstrap_servers=first.url, acks="all")
    await producer.start()
    await producer.send_and_wait("other", b"kept")
    await producer.stop()
    os.kill(first.pid, signal.SIGKILL)
    await first.child.wait(5)
    again = await start_kafka(tmp_path, port, controller)
    servers += again
    consumer = AIOKafkaConsumer(bootstrap_servers=again.url)
    await consumer.start()
    consumer.assign([TopicPartition("other", 0)])
    await consumer.seek_to_beginning()
    record = await asyncio.wait_for(consumer.getone(), 10)
    await consumer.stop()
    await again.stop()

    assert record.value == b"kept"
    assert again.child.exit_code() == 143


async def test_a_broker_that_is_not_there_is_one_line() -> None:
    with pytest.raises(StartFailed, match=r"^kafka at 127\.0\.0\.1:\d+: "):
        await create_topics(f"127.0.0.1:{free_ports(1)[0]}", {"some": 1})


@pytest.mark.timeout(900)  # the first one on a machine builds it
async def test_etcd_starts_and_answers(servers: Servers, tmp_path: Path) -> None:
    client, peer = free_ports(2)
    servers += await start_etcd(tmp_path, client, peer)
