"""The producer that is replaced as soon as it may be broken."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import MessageSizeTooLargeError

from infra.kafka import Ack, Outgoing, Producer
from infra.kafka.producer import REQUEST_BYTES_MAX, LogRegressed
from infra.local.ports import free_ports
from tests.conftest import MakeTopics
from tests.fixtures.events import read_topic, worker_settings
from tests.fixtures.waiting import eventually


@pytest.fixture
async def producer(kafka_brokers: str) -> AsyncIterator[Producer]:
    producer = Producer(worker_settings(kafka_brokers=kafka_brokers, kafka_send_seconds=3), "test")
    yield producer
    await producer.close()


def record(topic: str, number: int, size: int = 0) -> Outgoing:
    return Outgoing(topic, b"k", b"%d" % number + b" " * size, [])


async def test_acks_say_where_the_records_are(
    producer: Producer, make_topics: MakeTopics, topic_prefix: str, kafka_brokers: str
) -> None:
    await make_topics({"t": 1})
    topic = f"{topic_prefix}t"
    assert await producer.send([record(topic, number) for number in range(3)]) == [Ack(0, 0), Ack(0, 1), Ack(0, 2)]
    assert await producer.send([record(topic, 3)]) == [Ack(0, 3)]
    assert [found.value for found in await read_topic(kafka_brokers, topic, 4)] == [b"0", b"1", b"2", b"3"]


async def test_after_an_error_another_producer_sends(
    producer: Producer, make_topics: MakeTopics, topic_prefix: str
) -> None:
    await make_topics({"t": 1})
    topic = f"{topic_prefix}t"
    await producer.send([record(topic, 0)])
    before = producer._producer
    first, second, third = await producer.send(
        [record(topic, 1), record(topic, 2, size=REQUEST_BYTES_MAX), record(topic, 3)]
    )
    assert first == Ack(0, 1)
    assert isinstance(second, MessageSizeTooLargeError)
    assert isinstance(third, MessageSizeTooLargeError)  # it was not tried: nothing may overtake what failed
    assert producer._producer is None
    assert await producer.send([record(topic, 3)]) == [Ack(0, 2)]
    assert producer._producer is not before


async def test_an_ack_below_the_last_one_is_no_ack(
    producer: Producer, make_topics: MakeTopics, topic_prefix: str, kafka_brokers: str
) -> None:
    """The log was lost behind the producer's back; where it is new, records may be acked that are nowhere."""
    topic = f"{topic_prefix}t"
    await make_topics({"t": 1})
    await producer.send([record(topic, number) for number in range(3)])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_brokers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        await eventually(lambda: _gone(admin, topic))
    finally:
        await admin.close()
    await make_topics({"t": 1})
    outcomes: list[Ack | Exception] = []
    while not (outcomes and isinstance(outcomes[-1], Ack)):
        outcomes += await producer.send([record(topic, 7)])
    assert any(isinstance(each, LogRegressed) for each in outcomes)
    assert (await read_topic(kafka_brokers, topic, 1))[-1].value == b"7"


async def test_a_missing_topic_is_an_error_in_time(producer: Producer, topic_prefix: str) -> None:
    [outcome] = await producer.send([record(f"{topic_prefix}nowhere", 1)])
    assert isinstance(outcome, Exception)


async def test_no_broker_is_an_error_in_time() -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    producer = Producer(worker_settings(kafka_brokers=nowhere, kafka_start_seconds=0.5), "test")
    assert not await producer.probe()
    [outcome] = await producer.send([record("t", 1)])
    assert isinstance(outcome, Exception)
    await producer.close()


async def test_a_connection_lost_between_two_probes_costs_the_producer(producer: Producer) -> None:
    assert await producer.probe()
    before: Any = producer._producer
    connections = before.client._conns
    assert await producer.probe()
    assert producer._producer is before
    for connection in connections.values():
        connection.close()  # as a broker does that restarts; the driver opens another one and says nothing
    assert not await producer.probe()
    assert await producer.probe()
    assert producer._producer is not before


async def _gone(admin: AIOKafkaAdminClient, topic: str) -> bool:
    return topic not in await admin.list_topics()
