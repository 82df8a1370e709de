"""Issuing through the worker's port: what comes back, what is stored, each refusal by its code."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from infra.errors import NotFound, ValidationFailed
from protos.coupon.v1 import coupon_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import SHOP, refused, rows, topics, user
from tests.fixtures.coupons import Worker, issue_request, policy_request, running_worker
from tests.fixtures.databases import COUPON, INFRA


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url) as found:
        yield found


async def test_a_user_gets_a_coupon_under_the_terms_of_its_policy(worker: Worker) -> None:
    policy = await worker.client.make_policy(percent=10, cap=5_000, least=10_000, limit=2)
    reply = await worker.client.issue(policy.id, "u-7")
    coupon: pb.Coupon = reply.message
    assert not reply.replayed
    assert (coupon.user_id, coupon.status, coupon.coupon_policy_id) == ("u-7", pb.COUPON_STATUS_AVAILABLE, policy.id)
    assert coupon.expiration_time == policy.end_time
    assert (coupon.policy.discount_value, coupon.policy.maximum_discount_amount) == (10, 5_000)
    assert not any(coupon.HasField(name) for name in ("order_id", "order_amount", "final_amount", "used_at"))
    assert await worker.client.get(coupon.id) == coupon
    assert (await worker.client.get_policy(policy.id)).issued_quantity == 1


async def test_an_issue_is_one_row_each_of_coupon_command_and_event(worker: Worker) -> None:
    policy = await worker.client.make_policy(bonus_points=50)
    coupon = (await worker.client.issue(policy.id)).message
    url = worker.settings.database_url
    assert await topics(url, coupon.id) == ["coupon.issued"]
    (event,) = await rows(url, "SELECT payload, created_at FROM outbox WHERE key = $1", str(coupon.id))
    (row,) = await rows(url, "SELECT issued_at, user_seq, user_limit FROM coupons")
    told = orjson.loads(event["payload"])
    assert (told["id"], told["couponId"], told["userId"]) == (str(coupon.id), str(coupon.id), "u-1")
    assert (told["couponPolicyId"], told["policy"]["id"]) == (str(policy.id), str(policy.id))
    assert (told["policy"]["bonusPoints"], told["status"], told["orderId"]) == (50, "AVAILABLE", None)
    assert datetime.fromisoformat(told["issuedAt"]) == row["issued_at"] == event["created_at"]
    assert (row["user_seq"], row["user_limit"]) == (1, 1)


async def test_each_refusal_by_its_code_and_facts(worker: Worker) -> None:
    client, now = worker.client, datetime.now(UTC)
    later = await client.make_policy(start_time=now + timedelta(hours=1))
    over = await client.make_policy(start_time=now - timedelta(hours=2), end_time=now - timedelta(hours=1))
    single, double = await client.make_policy(1), await client.make_policy(limit=2)
    first = (await client.issue(single.id, "winner")).message

    early = await refused(client.issue(later.id))
    assert (early.code, early.facts["retry_at"]) == ("NOT_ACTIVE", later.start_time.ToDatetime(UTC))
    assert (await refused(client.issue(over.id))).facts == {}
    sold_out = await refused(client.issue(single.id, "loser"))
    assert (sold_out.code, sold_out.facts) == ("SOLD_OUT", {"available": 0, "requested": 1, "missing": 1})
    assert (await refused(client.issue(single.id, "winner"))).code == "SOLD_OUT"

    many = await client.make_policy()
    mine = (await client.issue(many.id, "u-1")).message
    again = await refused(client.issue(many.id, "u-1"))
    assert (again.code, again.facts) == ("ALREADY_ISSUED", {"coupon_id": str(mine.id)})
    for _ in range(2):
        await client.issue(double.id, "u-1")
    limit = await refused(client.issue(double.id, "u-1"))
    assert (limit.code, limit.facts) == ("USER_LIMIT", {"available": 0, "requested": 1, "missing": 1})

    missing = await refused(client.issue(first.id + 1_000))
    assert isinstance(missing, NotFound)
    assert missing.facts["resource"] == "Coupon policy"
    assert (await refused(client.issue(many.id, "u-2", caller=user("u-3")))).code == "FORBIDDEN"
    assert (await refused(client.issue(many.id, "shop", caller=SHOP))).code == "FORBIDDEN"
    assert isinstance(await refused(client.issue(many.id, "no spaces", caller=user("u-1"))), ValidationFailed)


async def test_a_used_or_canceled_coupon_still_counts_for_the_users_limit(worker: Worker) -> None:
    policy = await worker.client.make_policy()
    coupon = (await worker.client.issue(policy.id)).message
    await worker.client.use(coupon.id)
    assert (await refused(worker.client.issue(policy.id))).code == "ALREADY_ISSUED"
    await worker.client.cancel(coupon.id)
    assert (await refused(worker.client.issue(policy.id))).code == "ALREADY_ISSUED"
    assert (await worker.client.get_policy(policy.id)).issued_quantity == 1


async def test_one_bad_item_spoils_no_batch(worker: Worker) -> None:
    policy = await worker.client.make_policy(3)
    requests = [issue_request(policy.id, f"u-{number}") for number in range(5)]
    requests[1].user_id = "u-0"  # another's coupon
    requests[3].fingerprint = b"short"
    results = await worker.client.issue_many(requests)
    assert [result.WhichOneof("outcome") for result in results] == ["coupon", "status", "coupon", "status", "coupon"]
    assert [result.status.message for result in results if result.HasField("status")] == [
        "FORBIDDEN",
        "VALIDATION_FAILED",
    ]


async def test_a_new_policy_is_answered_as_it_is_stored(worker: Worker) -> None:
    policy = await worker.client.make_policy(7, percent=100, cap=1)
    assert (policy.status, policy.issued_quantity, policy.total_quantity) == (pb.POLICY_STATUS_ACTIVE, 0, 7)
    assert await worker.client.get_policy(policy.id) == policy


async def test_a_cap_of_zero_is_no_cap(worker: Worker) -> None:
    assert not (await worker.client.make_policy(cap=0)).HasField("maximum_discount_amount")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"title": ""}, "title"),
        ({"total": 0}, "totalQuantity"),
        ({"percent": 101}, "discountValue"),
        ({"limit": 0}, "perUserLimit"),
        ({"bonus_points": -1}, "bonusPoints"),
        ({"start_time": datetime(2026, 5, 1, tzinfo=UTC), "end_time": datetime(2026, 5, 1, tzinfo=UTC)}, "endTime"),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused_by_field(
    worker: Worker, changes: dict[str, object], field: str
) -> None:
    refusal = await refused(worker.client.make_policy(**changes))  # type: ignore[arg-type]  # the values vary in type
    assert isinstance(refusal, ValidationFailed)
    assert list(refusal.fields) == [field]


async def test_a_policy_without_times_or_type_is_refused(worker: Worker) -> None:
    for field, name in (("start_time", "startTime"), ("end_time", "endTime"), ("discount_type", "discountType")):
        request = policy_request()
        request.ClearField(field)  # type: ignore[arg-type]  # the stub wants literals
        refusal = await refused(worker.client.call("CreateCouponPolicy", request))
        assert isinstance(refusal, ValidationFailed)
        assert list(refusal.fields) == [name]


async def test_only_an_operator_makes_a_policy(worker: Worker) -> None:
    for caller in (user("u-1"), SHOP):
        assert (await refused(worker.client.make_policy(caller=caller))).code == "FORBIDDEN"
