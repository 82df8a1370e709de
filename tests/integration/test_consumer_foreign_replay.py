"""A dead letter that is replayed for one group is nobody else's business, whatever is wrong with it."""

from collections.abc import AsyncIterator

import pytest

from infra import dead_letters
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.consuming import GROUP, TOPIC, Bench, Effects, MakeBench, bench_maker
from tests.fixtures.events import produce, running
from tests.fixtures.waiting import eventually


@pytest.fixture
async def make_bench(
    make_database: MakeDatabase, make_topics: MakeTopics, kafka_brokers: str, topic_prefix: str
) -> AsyncIterator[MakeBench]:
    async with bench_maker(make_database, make_topics, kafka_brokers, topic_prefix) as make:
        yield make


async def _dead(bench: Bench, group: str) -> int:
    """How many letters of the group wait for a replay."""
    return sum(letter.replayed_at is None for letter in await bench.letters(group))


async def test_a_malformed_record_replayed_for_one_group_is_buried_by_no_other(make_bench: MakeBench) -> None:
    bench = await make_bench(partitions=1)
    await produce(bench.settings.kafka_brokers, bench.topic, [(b"u-1", b"no json", [])])
    async with running(bench.consumer(Effects()).run):
        await eventually(lambda: _dead(bench, GROUP))
    await dead_letters.replay(bench.settings, bench.database, TOPIC, GROUP)
    await bench.send(("u-1", 2))
    effects = Effects()
    async with running(bench.consumer(effects, group="other").run):
        await eventually(lambda: effects.committed)
    assert [letter.offset for letter in await bench.letters("other")] == [0]
