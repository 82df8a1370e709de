"""Many at once, through HTTP, two gateways and two of each worker: exactly what was on offer is given away."""

from collections import Counter
from functools import partial
from typing import Any

import pytest

from tests.fixtures.platform import Platform, Reply, together, unique
from tests.fixtures.shopping import issue, make_policy, make_sale, order

CROWD = 256


@pytest.mark.parametrize("stock", [1, 7, 100])
async def test_a_crowd_gets_all_coupons_and_not_one_more(platform: Platform, stock: int) -> None:
    policy = await make_policy(platform, totalQuantity=stock)
    asks = [partial(issue, platform, policy, unique(), gateway=number % 2) for number in range(CROWD)]
    replies = await together(asks)

    assert codes(replies) == {"OK": stock, "SOLD_OUT": CROWD - stock}
    assert len({reply.body["id"] for reply in replies if reply.status == 201}) == stock
    shown = (await platform.get(f"/coupon-policies/{policy['id']}")).expect(200)
    assert (shown["issuedQuantity"], shown["status"]) == (stock, "SOLD_OUT")


@pytest.mark.parametrize("stock", [1, 7, 100])
async def test_a_crowd_gets_all_units_in_an_order_without_gaps(platform: Platform, stock: int) -> None:
    sale = await make_sale(platform, quantity=stock)
    asks = [partial(order, platform, sale, unique(), gateway=number % 2) for number in range(CROWD)]
    replies = await together(asks)

    assert codes(replies) == {"OK": stock, "SOLD_OUT": CROWD - stock}
    numbers = sorted(reply.body["queueNumber"] for reply in replies if reply.status == 201)
    assert numbers == list(range(1, stock + 1))
    shown = (await platform.get(f"/time-sales/{sale['id']}")).expect(200)
    assert (shown["remainingQuantity"], shown["status"]) == (0, "SOLD_OUT")


async def test_orders_of_several_units_leave_nothing_stranded(platform: Platform) -> None:
    sale = await make_sale(platform, quantity=100)
    asks = [partial(order, platform, sale, unique(), 1 + number % 3, gateway=number % 2) for number in range(120)]
    replies = await together(asks)

    assert set(codes(replies)) <= {"OK", "SOLD_OUT", "INSUFFICIENT_STOCK"}
    assert sum(reply.body["quantity"] for reply in replies if reply.status == 201) == 100


async def test_one_user_twenty_times_at_once_gets_one_coupon(platform: Platform) -> None:
    policy, user = await make_policy(platform), unique()
    replies = await together([partial(issue, platform, policy, user, gateway=number % 2) for number in range(20)])

    assert codes(replies) == {"OK": 1, "ALREADY_ISSUED": 19}


async def test_one_user_twenty_times_at_once_buys_up_to_the_limit(platform: Platform) -> None:
    sale, user = await make_sale(platform, perUserLimit=3), unique()
    replies = await together([partial(order, platform, sale, user, gateway=number % 2) for number in range(20)])

    assert codes(replies) == {"OK": 3, "USER_LIMIT": 17}


async def test_points_are_spent_once_however_many_spend_at_once(platform: Platform) -> None:
    user = unique()
    (await platform.post("/points/earn", points(user, 100), user=unique("shop"), role="service")).expect(201)
    spend = partial(platform.post, "/points/use", points(user, 30), user=user)
    replies = await together([partial(spend, gateway=number % 2) for number in range(20)])

    assert codes(replies) == {"OK": 3, "INSUFFICIENT_POINTS": 17}
    assert await platform.points(user) == 10


@pytest.mark.full
async def test_two_thousand_buyers_rush_a_hundred_units_and_a_hundred_coupons(platform: Platform) -> None:
    sale, policy = await make_sale(platform), await make_policy(platform)
    asks: list[Any] = []
    for number in range(2000):
        user = unique()
        asks += [
            partial(order, platform, sale, user, gateway=number % 2),
            partial(issue, platform, policy, user, gateway=number % 2),
        ]
    replies = await together(asks)

    assert codes(replies[::2]) == codes(replies[1::2]) == {"OK": 100, "SOLD_OUT": 1900}


def points(user: str, amount: int) -> dict[str, Any]:
    return {"userId": user, "amount": amount, "description": "a gift"}


def codes(replies: list[Reply]) -> Counter[str]:
    return Counter(reply.code for reply in replies)
