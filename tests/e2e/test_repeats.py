"""A repeat under the same Idempotency-Key has one effect and one answer, whichever process died in between."""

import asyncio
from functools import partial
from typing import Any

from tests.fixtures.platform import Platform, Reply, together, unique
from tests.fixtures.shopping import issue, make_policy, make_sale, order
from tests.fixtures.waiting import eventually

REPEATS = 50


async def test_fifty_repeats_at_once_have_one_effect_and_one_answer(platform: Platform) -> None:
    policy, sale = await make_policy(platform, perUserLimit=99), await make_sale(platform)
    user, key = unique(), unique("key")
    for ask in (partial(issue, platform, policy), partial(order, platform, sale)):
        replies = await together([partial(ask, user, key=key, gateway=number % 2) for number in range(REPEATS)])

        assert {reply.status for reply in replies} == {201}
        assert len({reply.raw for reply in replies}) == 1
        assert sum(not reply.replayed for reply in replies) == 1
    assert await count_of(platform, user) == (1, 1)


async def test_a_key_used_with_another_body_is_refused(platform: Platform) -> None:
    sale, user, key = await make_sale(platform), unique(), unique("key")
    first = await order(platform, sale, user, quantity=1, key=key)
    other = await order(platform, sale, user, quantity=2, key=key, gateway=1)
    again = await order(platform, sale, user, quantity=1, key=key)

    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (again.status, again.raw, again.replayed) == (201, first.raw, True)


async def test_a_key_is_its_callers_own(platform: Platform) -> None:
    policy, key = await make_policy(platform), unique("key")
    replies = [await issue(platform, policy, unique(), key=key) for _ in range(2)]

    assert [(reply.status, reply.replayed) for reply in replies] == [(201, False), (201, False)]


async def test_workers_killed_between_commit_and_answer_have_done_it_once(platform: Platform) -> None:
    """All three workers die while a commit of each is durable and unanswered."""
    policy, sale, user = await make_policy(platform), await make_sale(platform), unique()
    asks = keyed(platform, policy, sale, user)
    workers = ("coupon", "point", "timesale")
    names = [name for worker in workers for name in platform.instances(worker)]
    async with platform.commits_hang():
        unanswered = [asyncio.create_task(ask()) for ask in asks]
        await eventually(lambda: platform.hanging_commits(*workers))
        platform.kill(*names)
    await asyncio.gather(*unanswered)
    await platform.start(*names)
    first = await repeated(asks)
    second = await repeated(asks)

    assert [(reply.status, reply.replayed) for reply in first] == [(201, True)] * 3
    assert [reply.raw for reply in second] == [reply.raw for reply in first]
    assert await count_of(platform, user) == (1, 1)
    assert await platform.points(user) == 30


async def test_a_gateway_killed_before_the_answer_changes_nothing_for_the_repeat(platform: Platform) -> None:
    policy, sale, user = await make_policy(platform), await make_sale(platform), unique()
    asks = keyed(platform, policy, sale, user)
    async with platform.commits_hang():
        lost = [asyncio.create_task(ask(gateway=1)) for ask in asks]
        await eventually(lambda: platform.hanging_commits("coupon", "point", "timesale"))
        platform.kill("gateway-2")
        failed = await asyncio.gather(*lost, return_exceptions=True)
    replies = await repeated(asks)
    await platform.start("gateway-2")

    assert all(isinstance(error, Exception) for error in failed)
    assert [(reply.status, reply.replayed) for reply in replies] == [(201, True)] * 3
    assert await count_of(platform, user) == (1, 1)
    assert await platform.points(user) == 30
    assert [reply.raw for reply in await repeated(asks, gateway=1)] == [reply.raw for reply in replies]


def keyed(platform: Platform, policy: Any, sale: Any, user: str) -> list[Any]:
    """A coupon, an order and a gift of 30 points, each under a key of its own."""
    return [
        partial(issue, platform, policy, user, key=unique("key")),
        partial(order, platform, sale, user, key=unique("key")),
        partial(same_shop(platform, user), key=unique("key")),
    ]


def same_shop(platform: Platform, user: str) -> Any:
    """Points given by one shop: a key is its caller's own."""
    body = {"userId": user, "amount": 30, "description": "a gift"}
    return partial(platform.post, "/points/earn", body, user=unique("shop"), role="service")


async def repeated(asks: list[Any], gateway: int = 0) -> list[Reply]:
    """The answers, once there are any: a client repeats what it got no answer to, or a 503."""
    replies: list[Reply] = []

    async def answered() -> bool:
        nonlocal replies
        replies = await together([partial(ask, gateway=gateway) for ask in asks])
        return all(reply.status < 500 for reply in replies)

    await eventually(answered, seconds=20)
    return replies


async def count_of(platform: Platform, user: str) -> tuple[int, int]:
    """How many coupons and how many orders the user has."""
    coupons = await platform.value("coupon", "SELECT count(*) FROM coupons WHERE user_id = $1", user)
    orders = await platform.value("timesale", "SELECT count(*) FROM orders WHERE user_id = $1", user)
    return coupons, orders
