"""Processes die by SIGKILL, one after the other, while clients ask and repeat what was not answered."""

import asyncio
import random
import time
from collections import Counter
from functools import partial
from typing import Any

import httpx2
import pytest

from tests.fixtures.platform import Platform, Reply, unique
from tests.fixtures.shopping import issue, make_policy, make_sale, order
from tests.fixtures.waiting import eventually

CLIENTS = 16
BONUS = 3
PAUSE_SECONDS = 0.1  # before a client repeats a demand; then longer and longer
VICTIMS = ("coupon", "coupon-2", "point", "point-2", "timesale", "timesale-2", "gateway-2", "valkey")


@pytest.mark.full
async def test_kills_under_load_lose_and_double_nothing(platform: Platform) -> None:
    """Every demand under its key has exactly one effect, and every effect its event and its points."""
    policy = await make_policy(platform, totalQuantity=1_000_000, bonusPoints=BONUS)
    sale = await make_sale(platform, quantity=1_000_000)
    until = time.monotonic() + 30
    users: list[str] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            tasks.create_task(client(platform, policy, sale, users, number % 2, until))
        tasks.create_task(killer(platform, until))

    coupons = await platform.rows(
        "coupon", "SELECT user_id FROM coupons WHERE coupon_policy_id = $1", int(policy["id"])
    )
    orders = await platform.rows("timesale", "SELECT user_id FROM orders WHERE time_sale_id = $1", int(sale["id"]))
    assert Counter(row["user_id"] for row in coupons) == Counter(users)
    assert Counter(row["user_id"] for row in orders) == Counter(users)
    await eventually(partial(all_have_points, platform, users), seconds=60)
    assert await platform.broken_invariants() == {}


async def client(platform: Platform, policy: Any, sale: Any, users: list[str], gateway: int, until: float) -> None:
    """One user after the other gets a coupon and orders a unit, however often that must be said."""
    while time.monotonic() < until:
        user = unique()
        for ask in (partial(issue, platform, policy, user), partial(order, platform, sale, user)):
            reply = await insisted(partial(ask, key=unique("key")), gateway)
            assert reply.status == 201, reply.raw
        users.append(user)


async def insisted(ask: Any, gateway: int) -> Reply:
    """The answer to a demand that is repeated, at either gateway, until there is one."""
    pause = PAUSE_SECONDS
    while True:
        try:
            reply: Reply = await ask(gateway=gateway)
            if reply.status < 500:
                return reply
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(pause)
        pause, gateway = min(pause * 1.5, 2), 1 - gateway


async def killer(platform: Platform, until: float) -> None:
    """Kills one after the other, in a random order; each is started again."""
    while time.monotonic() < until:
        for victim in random.sample(VICTIMS, len(VICTIMS)):
            if time.monotonic() < until:
                async with platform.killed(victim):
                    await asyncio.sleep(0.5)


async def all_have_points(platform: Platform, users: list[str]) -> bool:
    sql = "SELECT count(*) FROM balances WHERE user_id = ANY($1::text[]) AND balance = $2"
    return bool(await platform.value("point", sql, users, BONUS) == len(users))
