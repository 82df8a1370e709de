"""What is away, frozen or lying costs time and parts of answers, never a wrong answer."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.fixtures.platform import Platform, Reply, together, unique
from tests.fixtures.shopping import earn, issue, make_policy, make_sale, order
from tests.fixtures.topics import first_of_each, sent
from tests.fixtures.waiting import eventually

BONUS = 7
LIES: list[tuple[str, ...]] = [
    ("HSET", "units", "0", "version", "9000000000000000"),
    ("HSET", "units", "1000000", "version", "9000000000000000"),
    ("HSET", "units", "many", "version", "-1"),
    ("SET", "no hash at all"),
    ("RPUSH", "a", "list"),
]


async def test_a_worker_that_is_dead_is_missing_in_the_wallet_and_back_in_it_after_its_start(
    platform: Platform,
) -> None:
    user, shop = unique(), unique("shop")
    (await earn(platform, user, 30)).expect(201)
    show = partial(platform.get, f"/users/{user}/wallet", user=user)
    async with platform.killed(*platform.instances("point")):
        wallet = (await show()).expect(200)
        health = await platform.get("/health")
        asks = [partial(platform.get, f"/points/users/{unique()}/balance", user=shop, role="service")] * 20
        replies = await together(asks)
        breakers = (await platform.get("/circuit-breakers")).expect(200)["circuitBreakers"]
        refused = await platform.get(f"/points/users/{user}/balance", user=user)

    assert (wallet["balance"], wallet["partial"], wallet["unavailable"]) == (None, True, ["point-service"])
    assert (wallet["coupons"], wallet["orders"]) == ([], [])
    assert (health.status, health.body["services"]["point-service"]) == (503, "down")
    assert health.body["services"]["coupon-service"] == "up"
    assert {(reply.status, reply.code) for reply in replies} == {(503, "UNAVAILABLE")}
    assert {each["name"]: each["state"] for each in breakers}["point-service"] == "OPEN"
    assert int(refused.headers["retry-after"]) > 0
    wallet = (await show()).expect(200)
    assert (wallet["balance"], wallet["partial"], wallet["unavailable"]) == (30, False, [])
    (await platform.get("/health")).expect(200)
    breakers = (await platform.get("/circuit-breakers")).expect(200)["circuitBreakers"]
    assert {each["state"] for each in breakers} == {"CLOSED"}


@pytest.mark.parametrize("seconds", [5, pytest.param(20, marks=pytest.mark.full)])
async def test_a_frozen_broker_fails_no_request_and_loses_and_doubles_no_event(
    platform: Platform, seconds: float
) -> None:
    policy, sale = await make_policy(platform, totalQuantity=100_000, bonusPoints=BONUS), await make_sale(platform)
    gifted = unique()
    replies: list[Reply] = []
    buyers: list[str] = []
    with platform.frozen("kafka"):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            buyers.append(unique())
            replies += [
                await issue(platform, policy, buyers[-1]),
                await earn(platform, gifted, 1),
            ]
            await asyncio.sleep(0.05)
        replies.append(await order(platform, sale, buyers[0]))

    assert Counter(reply.status for reply in replies) == {201: len(replies)}
    count = len(buyers)
    await eventually(partial(has_points, platform, buyers, count * BONUS), seconds=60)
    await eventually(partial(is_all_sent, platform, "coupon"), seconds=40)
    await eventually(partial(is_all_sent, platform, "point"), seconds=40)
    coupons = await sent(platform.urls["kafka"], "coupon.issued", lambda each: each.value["userId"] in buyers)
    assert sorted(each.value["userId"] for each in first_of_each(coupons)) == sorted(buyers)
    gifts = await sent(platform.urls["kafka"], "point.earned", lambda each: each.key == gifted)
    assert [each.value["newBalance"] for each in first_of_each(gifts)] == list(range(1, count + 1))


async def test_a_redis_that_forgets_and_lies_changes_no_result(platform: Platform) -> None:
    """As many buyers as there is stock: each must get it, whatever the views say; after them nobody."""
    sale, policy = await make_sale(platform, quantity=200), await make_policy(platform, totalQuantity=200)
    keys = [f"timesale:inventory:{sale['id']}", f"coupon:inventory:{policy['id']}"]
    async with lying(platform, keys):
        buyers = await rush(platform, policy, sale, 200)
        late = await rush(platform, policy, sale, 50)

    assert codes(buyers) == {"OK": 400}
    assert codes(late) == {"SOLD_OUT": 100}


async def test_without_redis_everything_is_still_right(platform: Platform) -> None:
    sale, policy = await make_sale(platform, quantity=50), await make_policy(platform, totalQuantity=50)
    async with platform.killed("valkey"):
        replies = await rush(platform, policy, sale, 100)
        buyer = unique()
        (await earn(platform, buyer, 40)).expect(201)
        balance = await platform.get(f"/points/users/{buyer}/balance", user=buyer)
        ready = [(await platform.operations(name, "/readyz")).status_code for name in ("gateway", "coupon", "point")]

    assert codes(replies) == {"OK": 100, "SOLD_OUT": 100}
    assert balance.expect(200)["balance"] == 40
    assert ready == [200, 200, 200]


async def test_redis_killed_mid_sale_strands_no_unit(platform: Platform) -> None:
    sale, policy = await make_sale(platform, quantity=100), await make_policy(platform, totalQuantity=100)
    rushing = asyncio.create_task(rush(platform, policy, sale, 250))
    await eventually(partial(has_orders, platform, sale, 20))
    async with platform.killed("valkey"):
        replies = await rushing

    assert codes(replies) == {"OK": 200, "SOLD_OUT": 300}


@asynccontextmanager
async def lying(platform: Platform, keys: list[str]) -> AsyncIterator[None]:
    """Empties Redis and writes nonsense under `keys`, again and again, during the block."""

    stopped = asyncio.Event()

    async def lie() -> None:
        async with platform.redis() as redis:
            while not stopped.is_set():
                for command, *values in LIES:
                    async with redis.pipeline(transaction=True) as lies:
                        lies.flushall()
                        for key in keys:
                            lies.execute_command(command, key, *values)
                        await lies.execute()
                    await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(lie())
        try:
            yield
        finally:
            stopped.set()


async def rush(platform: Platform, policy: Any, sale: Any, buyers: int) -> list[Reply]:
    """Each buyer wants a coupon and a unit."""
    asks: list[Callable[[], Awaitable[Reply]]] = []
    for number in range(buyers):
        user = unique()
        asks += [
            partial(issue, platform, policy, user, gateway=number % 2),
            partial(order, platform, sale, user, gateway=number % 2),
        ]
    return await together(asks, at_once_max=64)


async def has_points(platform: Platform, users: list[str], points: int) -> bool:
    sql = "SELECT coalesce(sum(balance), 0)::bigint FROM balances WHERE user_id = ANY($1::text[])"
    return bool(await platform.value("point", sql, users) == points)


async def is_all_sent(platform: Platform, process: str) -> bool:
    return bool(await platform.value(process, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 0)


async def has_orders(platform: Platform, sale: Any, count: int) -> bool:
    sql = "SELECT sold_quantity FROM sales WHERE id = $1"
    return int(await platform.value("timesale", sql, int(sale["id"]))) >= count


def codes(replies: list[Reply]) -> Counter[str]:
    return Counter(reply.code for reply in replies)
