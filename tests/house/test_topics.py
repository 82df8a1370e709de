"""Each topic has one message, one that tells it and one row in the platform's table, and there are no others."""

import re

import pytest

from infra.local import asyncapi
from infra.local.platform import DEAD_LETTERS, TOPICS, WORKERS, topic_partitions
from tests.house.sources import files, python, text

TOPIC = re.compile(r"^// Topic ([a-z]+\.[a-z]+): .+\.(?: Key: .+\.)?\nmessage (\w+) ", re.MULTILINE)
QUOTED = re.compile(r'"((?:coupon|point|timesale|order)\.[a-z]+)"')
# Nothing gives units back to a sale yet; who listens may subscribe already.
NOT_TOLD_YET = {"timesale.resumed"}


def messages() -> list[tuple[str, str]]:
    return [found for path in files("protos/events/v1/*.proto") for found in TOPIC.findall(text(path))]


def test_every_event_message_names_its_topic() -> None:
    declared = [name for file in asyncapi.FILES for name in file.message_types_by_name]
    assert sorted(name for _, name in messages()) == sorted(declared)


def test_every_topic_has_exactly_one_message() -> None:
    assert sorted(topic for topic, _ in messages()) == sorted(TOPICS)


@pytest.mark.parametrize("worker", [worker.name for worker in WORKERS])
def test_a_worker_tells_exactly_the_topics_it_owns(worker: str) -> None:
    told = QUOTED.findall(text(f"{worker}/events.py"))
    assert sorted(told) == sorted({topic for topic, owner in TOPICS.items() if owner == worker} - NOT_TOLD_YET)


def test_what_is_not_told_yet_is_told_by_nobody() -> None:
    code = "".join(text(path) for path in python(*(worker.name for worker in WORKERS)))
    assert {topic for topic in NOT_TOLD_YET if topic in code} == set()


def test_a_service_names_topics_only_where_it_tells_or_hears_them() -> None:
    doors = ("events.py", "consumer.py", "invariants.py")

    def named(path: str) -> set[str]:
        return set(
            QUOTED.findall(re.sub(r"add_event\([^,]+", "", text(path)))
        )  # moments of a span have such names, too

    assert [
        path
        for path in python(*(worker.name for worker in WORKERS))
        if not path.endswith(doors) and named(path) & set(TOPICS)
    ] == []


def test_every_topic_a_consumer_hears_is_one() -> None:
    heard = {topic for path in files("*/consumer.py") for topic in QUOTED.findall(text(path))}
    assert heard
    assert heard <= set(TOPICS)


def test_every_topic_has_its_dead_letters() -> None:
    partitions = topic_partitions()
    assert {topic for topic in TOPICS if f"{topic}{DEAD_LETTERS}" not in partitions} == set()
    assert len(partitions) == 2 * len(TOPICS)
