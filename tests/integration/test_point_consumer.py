"""What other services' events earn a user, over a real broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from infra import outbox, postgres, redis
from infra.consumer import Consumer
from infra.events import Event
from infra.invariants import check
from infra.outbox import Relay
from infra.postgres import Database
from point import store
from point.cache import Cache
from point.consumer import GROUP, TOPICS, Rewards
from point.invariants import INVARIANTS
from point.rules import AMOUNT_MAX, reward_of
from point.settings import PointSettings
from protos.coupon.v1 import coupon_pb2
from protos.events.v1 import coupon_events_pb2, timesale_events_pb2
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.calls import rows, topics
from tests.fixtures.databases import INFRA, POINT
from tests.fixtures.waiting import eventually


@pytest.fixture
async def settings(
    make_database: MakeDatabase, redis_url: str, kafka_brokers: str, topic_prefix: str, make_topics: MakeTopics
) -> PointSettings:
    made = {topic: 3 for topic in (*TOPICS, *(f"{topic}.dlq" for topic in TOPICS), "point.earned")}
    await make_topics(made)
    return PointSettings(
        database_url=await make_database(INFRA, POINT),
        redis_url=redis_url,
        kafka_brokers=kafka_brokers,
        topic_prefix=topic_prefix,
        consumer_retry_seconds=0.01,
    )


@asynccontextmanager
async def consuming(settings: PointSettings) -> AsyncIterator[Database]:
    """A point service's consumer, and a relay that sends whatever a test puts into the outbox."""
    async with postgres.open(settings) as database, redis.open(settings) as client:
        cache = Cache(client, settings)
        relay = Relay(settings, database, source="/promo/test")
        consumer = Consumer(settings, database, group=GROUP, topics=TOPICS, handle=Rewards(cache, relay).handle)
        tasks = [asyncio.create_task(run()) for run in (consumer.run, relay.run, cache.run)]
        try:
            yield database
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def tell(database: Database, *events: Event) -> None:
    async with database.transaction() as conn:
        await outbox.add(conn, events)


NOW = Timestamp(seconds=1_770_000_000)


def coupon_issued(id: int, user_id: str, bonus_points: int) -> Event:
    terms = coupon_pb2.PolicyTerms(id=7, bonus_points=bonus_points, start_time=NOW, end_time=NOW, created_at=NOW)
    message = coupon_events_pb2.CouponIssued(
        id=id,
        coupon_id=id,
        user_id=user_id,
        coupon_policy_id=7,
        policy=terms,
        status=coupon_pb2.COUPON_STATUS_AVAILABLE,
        issued_at=NOW,
        expiration_time=NOW,
    )
    return Event("coupon.issued", str(id), message)


def order_created(id: int, user_id: str, total_price: int, reward_points: int) -> Event:
    message = timesale_events_pb2.OrderCreated(
        id=id, order_id=id, user_id=user_id, total_price=total_price, reward_points=reward_points, created_at=NOW
    )
    return Event("order.created", str(id), message)


async def balance(database: Database, user_id: str) -> int:
    async with database.connection() as conn:
        return (await store.read_account(conn, user_id)).balance


async def test_a_coupon_gives_its_bonus_and_an_order_its_reward(settings: PointSettings) -> None:
    async with consuming(settings) as database:
        await tell(database, coupon_issued(31, "u-1", 50), order_created(900, "u-1", 14_999, 5))

        async def earned() -> bool:
            return await balance(database, "u-1") == 50 + 749

        await eventually(earned, seconds=20)
        assert await check(database, INVARIANTS) == []
    descriptions = await rows(settings.database_url, "SELECT description FROM journal ORDER BY id")
    assert {row["description"] for row in descriptions} == {"Bonus for coupon 31", "Reward for order 900"}
    assert await topics(settings.database_url, "u-1") == ["point.earned", "point.earned"]


async def test_an_event_without_points_is_an_inbox_row_only(settings: PointSettings) -> None:
    async with consuming(settings) as database:
        await tell(database, coupon_issued(31, "u-1", 0))

        async def handled() -> bool:
            return await rows(settings.database_url, "SELECT outcome FROM inbox") == [{"outcome": "done"}]

        await eventually(handled, seconds=20)
    assert await rows(settings.database_url, "SELECT * FROM journal") == []


async def test_the_same_events_again_earn_nothing_even_when_the_inbox_has_forgotten(settings: PointSettings) -> None:
    async with consuming(settings) as database:
        await tell(database, *(coupon_issued(id, "u-1", 1) for id in range(1, 21)))

        async def all_earned() -> bool:
            return await balance(database, "u-1") == 20

        await eventually(all_earned, seconds=20)
        await rows(settings.database_url, "DELETE FROM inbox")
        since = (await rows(settings.database_url, "SELECT min(created_at) AS at FROM outbox"))[0]["at"]
        assert await outbox.replay(database, "coupon.issued", since) == 20

        async def handled_again() -> bool:
            return bool((await rows(settings.database_url, "SELECT count(*) AS n FROM inbox"))[0]["n"] == 20)

        await eventually(handled_again, seconds=20)
        assert await balance(database, "u-1") == 20


async def test_points_that_can_never_be_given_end_among_the_dead_letters(settings: PointSettings) -> None:
    async with consuming(settings) as database:
        await tell(database, coupon_issued(1, "rich", AMOUNT_MAX))
        await tell(database, coupon_issued(2, "rich", 1), coupon_issued(3, "poor", 1))

        async def given_up() -> bool:
            letters = await rows(settings.database_url, "SELECT consumer FROM dead_letters")
            return letters == [{"consumer": GROUP}] and await balance(database, "poor") == 1

        await eventually(given_up, seconds=20)
        assert await balance(database, "rich") in (AMOUNT_MAX, 1)


@pytest.mark.parametrize(
    ("total", "percent", "points"),
    [(14_000, 5, 700), (99, 1, 0), (100, 1, 1), (14_999, 5, 749), (1, 100, 1), (5, 0, 0)],
)
def test_a_reward_is_rounded_down(total: int, percent: int, points: int) -> None:
    assert reward_of(total, percent) == points
