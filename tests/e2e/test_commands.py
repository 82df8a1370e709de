"""The commands of `./promo` on a running platform, as a person or a script runs them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from tests.fixtures.platform import Platform, unique
from tests.fixtures.shopping import issue, make_policy, make_sale, order
from tests.fixtures.waiting import eventually

GROUP = ("--group", "point-service")


async def test_an_event_is_tailed_with_the_trace_of_its_request(platform: Platform) -> None:
    sale, user = await make_sale(platform), unique()
    tail = await platform.started_promo("events", "tail", "order.created", "--from-beginning", "--json")
    assert tail.stdout is not None
    reply = await order(platform, sale, user)
    try:
        async with asyncio.timeout(20):
            while (event := json.loads(await tail.stdout.readline()))["value"]["userId"] != user:
                pass
    finally:
        tail.terminate()
        await tail.communicate()

    assert event["trace_id"] == reply.trace_id
    assert event["value"]["queueNumber"] == 1
    assert event["key"] == reply.body["id"]


async def test_the_trace_of_an_answer_is_shown_as_a_waterfall(platform: Platform) -> None:
    reply = await order(platform, await make_sale(platform), unique())
    await platform.trace(reply.trace_id, lambda tree: tree.has("serialize response"))
    shown = await platform.promo("trace", reply.trace_id)

    assert shown.startswith(f"trace {reply.trace_id}")
    assert "POST /api/v1/orders" in shown
    assert "order.create" in shown
    assert "no spans" in await platform.promo("trace", "0" * 32, exit_code=1)


async def test_a_token_lets_its_user_in_and_nobody_else(platform: Platform) -> None:
    user = unique()
    tokens = (await platform.promo("token", "--user", user, "--count", "2")).split()
    statuses = []
    for token in tokens:
        answer = await platform.clients[0].get(
            f"/points/users/{user}-1/balance", headers={"Authorization": f"Bearer {token}"}
        )
        statuses.append(answer.status_code)

    assert statuses == [200, 403]


async def test_events_sent_again_have_no_second_effect(platform: Platform) -> None:
    policy, user = await make_policy(platform, bonusPoints=11), unique()
    (await issue(platform, policy, user)).expect(201)
    await eventually(lambda: has_points(platform, user, 11))
    before = await duplicates(platform)
    said = await platform.promo("events", "replay", "coupon.issued", "--since", "2020-01-01T00:00:00Z")
    count = int(said.split()[0])
    await eventually(lambda: has_ignored(platform, before + count), seconds=20)

    assert count >= 1
    assert await platform.points(user) == 11


async def test_a_dead_letter_is_listed_replayed_and_then_takes_effect(platform: Platform) -> None:
    policy, user = await make_policy(platform, bonusPoints=11), unique("unlucky")
    async with no_points_for_the_unlucky(platform):
        coupon = (await issue(platform, policy, user)).expect(201)
        await eventually(lambda: is_dead(platform, coupon["id"]), seconds=30)
        letters = json.loads(await platform.promo("dlq", "list", "coupon.issued", *GROUP, "--json"))
        assert await platform.points(user) == 0
    said = await platform.promo("dlq", "replay", "coupon.issued", *GROUP)
    await eventually(lambda: has_points(platform, user, 11), seconds=20)

    (letter,) = [each for each in letters if each["key"] == coupon["id"]]
    assert "no_luck" in letter["error"]
    assert "replayed 1" in said


async def test_a_broken_invariant_is_named_and_fails_the_command(platform: Platform) -> None:
    user = unique()
    policy = await make_policy(platform, bonusPoints=5)
    (await issue(platform, policy, user)).expect(201)
    await eventually(lambda: has_points(platform, user, 5))
    await platform.rows("point", "UPDATE balances SET balance = balance + 1 WHERE user_id = $1", user)
    try:
        told = await platform.promo("invariants", exit_code=1)
    finally:
        await platform.rows("point", "UPDATE balances SET balance = balance - 1 WHERE user_id = $1", user)

    assert "point_balance_is_sum_of_journal" in told
    assert user in told


async def test_status_says_which_process_is_gone(platform: Platform) -> None:
    async with platform.killed("timesale-2"):
        told = json.loads(await platform.promo("status", "--json"))
    again = json.loads(await platform.promo("status", "--json"))

    states = {part["name"]: part["state"] for part in told["processes"]}
    assert not told["ready"]
    assert {name for name, state in states.items() if state != "ready"} == {"timesale-2"}
    assert again["ready"]
    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{again['urls']['api']}/health")).status_code == 200


@asynccontextmanager
async def no_points_for_the_unlucky(platform: Platform) -> AsyncIterator[None]:
    """During the block the points of some users can never be given."""
    rule = "CHECK (user_id NOT LIKE 'unlucky%') NOT VALID"
    await platform.rows("point", f"ALTER TABLE journal ADD CONSTRAINT no_luck {rule}")
    try:
        yield
    finally:
        await platform.rows("point", "ALTER TABLE journal DROP CONSTRAINT no_luck")


async def is_dead(platform: Platform, coupon_id: str) -> bool:
    return bool(await platform.rows("point", "SELECT FROM dead_letters WHERE key = $1", coupon_id.encode()))


async def has_points(platform: Platform, user: str, points: int) -> bool:
    return await platform.points(user) == points


async def has_ignored(platform: Platform, count: float) -> bool:
    return await duplicates(platform) >= count


async def duplicates(platform: Platform) -> float:
    """How many events the point service met a second time and ignored."""
    return sum([await platform.metric(name, "promo_inbox_duplicates_total") for name in platform.instances("point")])
