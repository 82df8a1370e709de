"""What a client of the REST API is told, story by story: the gateway and the true workers behind it."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from redis.asyncio import Redis

from infra.caller import Role
from tests.fixtures.gateways import Edge
from tests.fixtures.platforms import platform
from tests.fixtures.servers import Servers
from tests.fixtures.tracing import recorded

OPEN = {"start": "2020-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}
KEYS = {
    "coupon:inventory:": 1_000,
    "timesale:inventory:": 1_000,
    "point:balance:": 300_000,
}


@pytest.fixture(scope="module")
async def api(servers: Servers, valkey: str) -> AsyncIterator[Edge]:
    with recorded():  # else there are no trace ids
        async with platform(servers.database_url, valkey) as running:
            yield running


@pytest.fixture
def buyer() -> str:
    return f"buyer-{uuid4().hex[:8]}"


def told(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


def refused(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    body = told(response, status)
    assert (body["code"], body["status"]) == (code, status)
    assert body["type"] == f"/problems/{code.lower().replace('_', '-')}"
    assert body["instance"] == response.request.url.path
    assert body["traceId"] == response.headers["traceparent"].split("-")[1]
    return body


async def policy(api: Edge, **changes: Any) -> str:
    body = {
        "title": "Spring", "description": "", "totalQuantity": 10, "startTime": OPEN["start"], "endTime": OPEN["end"],
        "discountType": "PERCENTAGE", "discountValue": 15, "minimumOrderAmount": 1_000,
        "maximumDiscountAmount": 2_000, **changes,
    }  # fmt: skip
    return str(told(await api.post("/coupon-policies", body, "boss", Role.ADMIN), 201)["id"])


async def sale(api: Edge, **changes: Any) -> str:
    product = told(await api.post("/products", {"name": "Mug", "price": 9_000}, "boss", Role.ADMIN), 201)
    body = {
        "productId": product["id"], "quantity": 3, "discountPrice": 7_000, "startAt": OPEN["start"],
        "endAt": OPEN["end"], **changes,
    }  # fmt: skip
    return str(told(await api.post("/time-sales", body, "boss", Role.ADMIN), 201)["id"])


def keyed(key: str | None = None) -> Mapping[str, str]:
    return {"Idempotency-Key": key or uuid4().hex}


async def test_a_coupon_is_issued_used_and_canceled(api: Edge, buyer: str) -> None:
    policy_id = await policy(api)
    coupon = told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)
    assert coupon["userId"] == buyer
    assert (coupon["status"], coupon["policy"]["id"], coupon["expirationTime"]) == (
        "AVAILABLE", policy_id, "2100-01-01T00:00:00Z",
    )  # fmt: skip
    use = f"/coupons/{coupon['id']}/use"
    small = refused(await api.post(use, {"orderAmount": 999}, buyer), 409, "MINIMUM_ORDER_AMOUNT")
    assert (small["available"], small["requested"], small["missing"]) == (999, 1_000, 1)
    used = told(await api.post(use, {"orderId": "900", "orderAmount": 9_999}, buyer), 200)
    assert (used["status"], used["discountAmount"], used["finalAmount"]) == ("USED", 1_499, 8_500)
    assert used["orderId"] == "900"
    refused(await api.post(use, {"orderAmount": 9_999}, buyer), 409, "COUPON_NOT_AVAILABLE")
    canceled = told(await api.post(f"/coupons/{coupon['id']}/cancel", {}, buyer), 200)
    assert canceled["status"] == "CANCELED"
    refused(await api.post(f"/coupons/{coupon['id']}/cancel", {}, buyer), 409, "ALREADY_CANCELED")
    assert told(await api.get(f"/coupons/{coupon['id']}", buyer), 200) == canceled
    again = refused(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 409, "ALREADY_ISSUED")
    assert again["couponId"] == coupon["id"]


@pytest.mark.parametrize(
    ("terms", "amount", "discount"),
    [
        ({"discountType": "FIXED", "discountValue": 5_000, "maximumDiscountAmount": None}, 3_000, 3_000),
        ({"discountType": "FIXED_AMOUNT", "discountValue": 500, "maximumDiscountAmount": None}, 3_000, 500),
        ({"discountValue": 33}, 1_001, 330),
        ({"discountValue": 100}, 50_000, 2_000),
        ({"discountValue": 100, "maximumDiscountAmount": None}, 50_000, 50_000),
    ],
    ids=["never above the order", "fixed", "rounded down", "capped", "all of it"],
)
async def test_a_discount_is_what_the_policy_says(
    api: Edge, buyer: str, terms: dict[str, Any], amount: int, discount: int
) -> None:
    policy_id = await policy(api, **terms)
    coupon = told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)
    used = told(await api.post(f"/coupons/{coupon['id']}/use", {"orderAmount": amount}, buyer), 200)
    assert (used["discountAmount"], used["finalAmount"]) == (discount, amount - discount)


async def test_a_policy_says_how_many_are_issued_and_how_it_stands(api: Edge, buyer: str) -> None:
    policy_id = await policy(api, totalQuantity=1)
    before = told(await api.get(f"/coupon-policies/{policy_id}", buyer), 200)
    assert (before["issuedQuantity"], before["status"], before["bonusPoints"]) == (0, "ACTIVE", 0)
    told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)
    after = told(await api.get(f"/coupon-policies/{policy_id}", buyer), 200)
    assert (after["issuedQuantity"], after["status"]) == (1, "SOLD_OUT")
    none_left = refused(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, "late"), 409, "SOLD_OUT")
    assert none_left["detail"] == "Coupon sold out"


async def test_lists_are_newest_first_in_pages_that_say_where_they_are(api: Edge, buyer: str) -> None:
    policy_id = await policy(api, perUserLimit=4)
    made = [told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)["id"] for _ in range(4)]
    refused(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 409, "USER_LIMIT")
    told(await api.post(f"/coupons/{made[0]}/use", {"orderAmount": 1_000}, buyer), 200)
    path = f"/coupons/user/{buyer}"
    first, second = (
        told(await api.get(f"{path}?size=3", buyer), 200),
        told(await api.get(f"{path}?size=3&page=1", buyer), 200),
    )
    assert [(page["total"], page["page"], page["size"]) for page in (first, second)] == [(4, 0, 3), (4, 1, 3)]
    (things,) = (name for name in first if isinstance(first[name], list))
    assert [coupon["id"] for page in (first, second) for coupon in page[things]] == made[::-1]
    used = told(await api.get(f"{path}?status=USED", buyer), 200)
    assert (used["total"], used["size"], [coupon["id"] for coupon in used[things]]) == (1, 10, made[:1])
    refused(await api.get(f"{path}?size=101", buyer), 400, "VALIDATION_FAILED")


async def test_points_are_earned_spent_and_taken_back(api: Edge, buyer: str) -> None:
    body = {"userId": buyer, "amount": 10, "description": "welcome"}
    earned = told(await api.post("/points/earn", body, "shop", Role.SERVICE), 201)
    assert (earned["type"], earned["amount"]) == ("EARNED", 10)
    spent = told(await api.post("/points/use", {"amount": 7, "description": "mug"}, buyer), 201)
    assert (spent["type"], spent["amount"]) == ("SPENT", -7)
    poor = refused(
        await api.post("/points/use", {"amount": 9, "description": "mug"}, buyer), 409, "INSUFFICIENT_POINTS"
    )
    assert poor["detail"] == "Insufficient points. Available: 3, Requested: 9"
    assert (poor["available"], poor["requested"], poor["missing"]) == (3, 9, 6)
    undo = {"transactionId": earned["id"], "description": "wrong"}
    refused(await api.post("/points/cancel", undo, "shop", Role.SERVICE), 409, "WOULD_GO_NEGATIVE")
    back = {"transactionId": spent["id"], "description": "returned"}
    canceled = told(await api.post("/points/cancel", back, "shop", Role.SERVICE), 201)
    assert (canceled["type"], canceled["amount"], canceled["originalTransactionId"]) == ("CANCELED", 7, spent["id"])
    refused(await api.post("/points/cancel", back, "shop", Role.SERVICE), 409, "ALREADY_CANCELED")
    assert told(await api.get(f"/points/users/{buyer}/balance", buyer), 200)["balance"] == 10


async def test_orders_sell_a_sale_out(api: Edge, buyer: str) -> None:
    sale_id = await sale(api, perUserLimit=2)
    first = told(await api.post("/orders", {"timeSaleId": sale_id, "quantity": 2}, buyer), 201)
    assert (first["status"], first["queueNumber"], first["totalPrice"]) == ("COMPLETED", 1, 14_000)
    assert told(await api.get(f"/orders/{first['id']}", buyer), 200) == first
    greedy = refused(await api.post("/orders", {"timeSaleId": sale_id, "quantity": 1}, buyer), 409, "USER_LIMIT")
    assert greedy["detail"] == "Limit per user reached. Available: 0, Requested: 1"
    much = refused(
        await api.post("/orders", {"timeSaleId": sale_id, "quantity": 2}, "other"), 409, "INSUFFICIENT_STOCK"
    )
    assert much["detail"] == "Insufficient stock. Available: 1, Requested: 2"
    assert (much["available"], much["requested"], much["missing"]) == (1, 2, 1)
    last = told(await api.post("/orders", {"timeSaleId": int(sale_id), "quantity": 1}, "other"), 201)
    assert last["queueNumber"] == 2
    refused(await api.post("/orders", {"timeSaleId": sale_id, "quantity": 1}, "late"), 409, "SOLD_OUT")
    shown = told(await api.get(f"/time-sales/{sale_id}", buyer), 200)
    assert (shown["status"], shown["remainingQuantity"], shown["heldQuantity"]) == ("SOLD_OUT", 0, 0)
    assert shown["product"]["name"] == "Mug"


async def test_a_sale_that_has_not_begun_says_when_to_come_back(api: Edge, buyer: str) -> None:
    start = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    at = start.isoformat().replace("+00:00", "Z")
    sale_id = await sale(api, startAt=at)
    early = refused(await api.post("/orders", {"timeSaleId": sale_id, "quantity": 1}, buyer), 409, "NOT_ACTIVE")
    assert datetime.fromisoformat(early["retryAt"]) == start
    assert told(await api.get(f"/time-sales/{sale_id}", buyer), 200)["status"] == "SCHEDULED"
    policy_id = await policy(api, startTime=at)
    later = refused(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 409, "NOT_ACTIVE")
    assert datetime.fromisoformat(later["retryAt"]) == start


async def test_a_repeat_gets_the_first_answer_byte_by_byte(api: Edge, buyer: str) -> None:
    sale_id, headers = await sale(api), keyed()
    body = {"timeSaleId": sale_id, "quantity": 1}
    first = await api.post("/orders", body, buyer, headers=headers)
    again = await api.post("/orders", {"quantity": 1, "timeSaleId": int(sale_id)}, buyer, headers=headers)
    assert (told(first, 201), first.content) == (told(again, 201), again.content)
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    other = await api.post("/orders", {**body, "quantity": 2}, buyer, headers=headers)
    refused(other, 422, "IDEMPOTENCY_KEY_REUSED")
    assert told(await api.get(f"/time-sales/{sale_id}", buyer), 200)["remainingQuantity"] == 2


async def test_another_path_parameter_under_the_same_key_is_refused(api: Edge, buyer: str) -> None:
    policy_id, headers = await policy(api, perUserLimit=2), keyed()
    one, two = [
        told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)["id"] for _ in range(2)
    ]
    told(await api.post(f"/coupons/{one}/use", {"orderAmount": 1_000}, buyer, headers=headers), 200)
    other = await api.post(f"/coupons/{two}/use", {"orderAmount": 1_000}, buyer, headers=headers)
    refused(other, 422, "IDEMPOTENCY_KEY_REUSED")
    assert told(await api.get(f"/coupons/{two}", buyer), 200)["status"] == "AVAILABLE"


async def test_a_refusal_that_can_turn_is_judged_anew_and_a_final_one_is_kept(api: Edge, buyer: str) -> None:
    poor, spend = keyed(), {"amount": 5, "description": "mug"}
    refused(await api.post("/points/use", spend, buyer, headers=poor), 409, "INSUFFICIENT_POINTS")
    earn = {"userId": buyer, "amount": 5, "description": "welcome"}
    told(await api.post("/points/earn", earn, "shop", Role.SERVICE), 201)
    told(await api.post("/points/use", spend, buyer, headers=poor), 201)
    policy_id, other_id, twice = await policy(api), await policy(api), keyed()
    coupon = told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)
    for replayed in (None, "true"):
        no = await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer, headers=twice)
        assert refused(no, 409, "ALREADY_ISSUED")["couponId"] == coupon["id"]
        assert no.headers.get("idempotency-replayed") == replayed
    other = await api.post("/coupons/issue", {"couponPolicyId": other_id}, buyer, headers=twice)
    refused(other, 422, "IDEMPOTENCY_KEY_REUSED")  # so the key is the refusal's


async def test_what_redis_keeps_has_its_name_and_its_end(api: Edge, buyer: str, valkey: str) -> None:
    """Redis only spares work, so nothing in it may stay for ever."""
    policy_id, sale_id = await policy(api), await sale(api)
    async with Redis.from_url(valkey, protocol=2, decode_responses=True) as cache:
        await cache.flushall()
        told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)
        told(await api.post("/orders", {"timeSaleId": sale_id, "quantity": 1}, buyer), 201)
        earn = {"userId": buyer, "amount": 5, "description": ""}
        told(await api.post("/points/earn", earn, "shop", Role.SERVICE), 201)
        lives = {name: await cache.pttl(name) async for name in cache.scan_iter()}
    assert -1 not in lives.values()
    ours = {name: life for name, life in lives.items() if name.startswith(tuple(KEYS))}
    assert f"point:balance:{buyer}" in ours
    assert {name: life for name, life in ours.items() if life > KEYS[name[: name.rindex(":") + 1]]} == {}
    assert {name for name in set(lives) - set(ours) if not name.startswith(("rate", "lock:"))} == set()


async def test_a_wallet_is_one_answer_of_three_workers(api: Edge, buyer: str) -> None:
    policy_id, sale_id = await policy(api), await sale(api)
    coupon = told(await api.post("/coupons/issue", {"couponPolicyId": policy_id}, buyer), 201)
    order = told(await api.post("/orders", {"timeSaleId": sale_id, "quantity": 1}, buyer), 201)
    earn = {"userId": buyer, "amount": 5, "description": ""}
    told(await api.post("/points/earn", earn, "shop", Role.SERVICE), 201)
    wallet = told(await api.get(f"/users/{buyer}/wallet", buyer), 200)
    text = str(wallet)
    assert wallet["partial"] is False
    assert f"'id': '{coupon['id']}'" in text
    assert f"'id': '{order['id']}'" in text
    told(await api.post(f"/coupons/{coupon['id']}/use", {"orderAmount": 1_000}, buyer), 200)
    assert told(await api.get(f"/users/{buyer}/wallet", buyer), 200)["coupons"] == []
