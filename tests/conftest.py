"""Fixtures of every test: real servers, once per run; a database, topics and keys of its own for each test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from redis.asyncio import Redis

from infra.local.servers import create_topics
from tests.fixtures.databases import Databases
from tests.fixtures.servers import Servers, own_valkey, running
from tests.fixtures.tracing import Spans, recorded

# structlog's own default paints each traceback with all local variables: half a second for one error line.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)

MakeDatabase = Callable[..., Awaitable[str]]
MakeTopics = Callable[[Mapping[str, int]], Awaitable[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also the tests at full size (marked `full`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full the full-size tests are left out; each has a short form that runs."""
    if config.getoption("--full"):
        return
    large = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=large)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """Postgres and Kafka: started here, or those of PROMO_TEST_DATABASE_URL and PROMO_TEST_KAFKA_BROKERS."""
    async with running(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture
async def make_database(servers: Servers) -> AsyncIterator[MakeDatabase]:
    """`await make_database(INFRA, COUPON)`: the URL of a fresh database migrated with these folders."""
    databases = Databases(servers.database_url)
    yield databases.make
    await databases.drop_all()


@pytest.fixture(scope="session")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """This pytest process's own Valkey."""
    async with own_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
async def redis_url(valkey: str) -> str:
    """An empty Redis."""
    async with Redis.from_url(valkey, protocol=2) as redis:
        await redis.flushall()
    return valkey


@pytest.fixture
def kafka_brokers(servers: Servers) -> str:
    """`host:port` of the broker."""
    return servers.kafka_brokers


@pytest.fixture
def topic_prefix() -> str:
    """Before the name of every topic of this test; consumer groups want it too."""
    return f"t{uuid4().hex[:12]}."


@pytest.fixture
async def make_topics(kafka_brokers: str, topic_prefix: str) -> MakeTopics:
    """`await make_topics({"coupon.issued": 3})` makes the topic with the test's prefix and so many partitions."""

    async def make(partitions: Mapping[str, int]) -> None:
        await create_topics(kafka_brokers, {f"{topic_prefix}{topic}": count for topic, count in partitions.items()})

    return make


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Every span of this test, all sampled: `spans.named("COMMIT")`."""
    with recorded() as found:
        yield found


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]
