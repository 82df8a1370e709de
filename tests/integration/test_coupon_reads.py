"""Reads through the worker's port: lists, filters, derived states, and who may see what."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import Forbidden, NotFound, ValidationFailed
from protos.caller.v1 import caller_pb2
from protos.coupon.v1 import coupon_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import ADMIN, SHOP, refused, rows, user
from tests.fixtures.coupons import Worker, running_worker
from tests.fixtures.databases import COUPON, INFRA, set_clock


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url) as found:
        yield found


async def coupons_of(
    worker: Worker,
    user_id: str = "u-1",
    status: pb.CouponStatus.ValueType | None = None,
    *,
    caller: caller_pb2.Caller | None = None,
    page: int = 0,
    size: int = 10,
) -> pb.GetUserCouponsResponse:
    request = pb.GetUserCouponsRequest(
        caller=caller or user(user_id), user_id=user_id, status=status, page=page, size=size
    )
    response: pb.GetUserCouponsResponse = (await worker.client.call("GetUserCoupons", request)).message
    return response


async def test_a_users_coupons_come_newest_first_in_pages_with_their_total(worker: Worker) -> None:
    policy = await worker.client.make_policy(limit=5)
    ids = [(await worker.client.issue(policy.id)).message.id for _ in range(5)]
    await worker.client.issue(policy.id, "u-2")
    first, last = await coupons_of(worker, size=3), await coupons_of(worker, page=1, size=3)
    assert [coupon.id for coupon in (*first.coupons, *last.coupons)] == ids[::-1]
    assert (first.total, first.page, first.size, last.page) == (5, 0, 3, 1)
    assert first.coupons[0].policy.title == "Spring sale"
    empty = await coupons_of(worker, page=9)
    assert (list(empty.coupons), empty.total) == ([], 5)


async def test_an_overdue_coupon_reads_expired_everywhere_before_any_sweep(worker: Worker) -> None:
    policy = await worker.client.make_policy(limit=3)
    used, due = [(await worker.client.issue(policy.id)).message for _ in range(2)]
    await worker.client.use(used.id)
    later = await worker.client.make_policy(end_time=datetime.now(UTC) + timedelta(days=1))
    alive = (await worker.client.issue(later.id)).message
    await set_clock(worker.settings.database_url, "clock_timestamp() + interval '2 hours'")

    assert [coupon.id for coupon in (await coupons_of(worker, status=pb.COUPON_STATUS_AVAILABLE)).coupons] == [alive.id]
    expired = await coupons_of(worker, status=pb.COUPON_STATUS_EXPIRED)
    assert ([coupon.id for coupon in expired.coupons], expired.total) == ([due.id], 1)
    assert expired.coupons[0].status == pb.COUPON_STATUS_EXPIRED
    assert expired.coupons[0].expired_at == due.expiration_time
    assert await worker.client.get(due.id) == expired.coupons[0]
    assert [
        row["status"] for row in await rows(worker.settings.database_url, "SELECT status FROM coupons ORDER BY id")
    ] == [
        "USED",
        "AVAILABLE",
        "AVAILABLE",
    ]
    await worker.expiry.run()
    assert await worker.client.get(due.id) == expired.coupons[0]
    assert [coupon.id for coupon in (await coupons_of(worker, status=pb.COUPON_STATUS_USED)).coupons] == [used.id]


async def test_a_policys_status_is_the_clocks_and_the_counters(worker: Worker) -> None:
    now = datetime.now(UTC)
    policy = await worker.client.make_policy(1, start_time=now + timedelta(hours=1))
    assert policy.status == pb.POLICY_STATUS_SCHEDULED
    url = worker.settings.database_url
    await set_clock(url, "clock_timestamp() + interval '90 minutes'")
    assert (await worker.client.get_policy(policy.id)).status == pb.POLICY_STATUS_ACTIVE
    await worker.client.issue(policy.id)
    assert (await worker.client.get_policy(policy.id)).status == pb.POLICY_STATUS_SOLD_OUT
    await set_clock(url, "clock_timestamp() + interval '3 hours'")
    assert (await worker.client.get_policy(policy.id)).status == pb.POLICY_STATUS_ENDED


async def test_policies_come_newest_first_with_their_total(worker: Worker) -> None:
    ids = [(await worker.client.make_policy()).id for _ in range(3)]
    request = pb.ListCouponPoliciesRequest(caller=user("u-1"), page=0, size=2)
    response = (await worker.client.call("ListCouponPolicies", request)).message
    assert [policy.id for policy in response.policies] == ids[:0:-1]
    assert (response.total, response.page, response.size) == (3, 0, 2)


async def test_a_stranger_sees_nothing_and_an_operator_or_machine_everything(worker: Worker) -> None:
    coupon = (await worker.client.issue((await worker.client.make_policy()).id)).message
    for caller in (ADMIN, SHOP, user("u-1")):
        assert (await worker.client.get(coupon.id, caller)).id == coupon.id
        assert (await coupons_of(worker, caller=caller)).total == 1
    assert isinstance(await refused(worker.client.get(coupon.id, user("u-2"))), Forbidden)
    assert isinstance(await refused(coupons_of(worker, caller=user("u-2"))), Forbidden)


async def test_what_is_not_there_is_not_found(worker: Worker) -> None:
    coupon, policy = await refused(worker.client.get(7)), await refused(worker.client.get_policy(7))
    assert isinstance(coupon, NotFound)
    assert isinstance(policy, NotFound)
    assert (coupon.facts, policy.facts) == (
        {"resource": "Coupon", "id": "7"},
        {"resource": "Coupon policy", "id": "7"},
    )


async def test_odd_pages_users_and_states_are_refused(worker: Worker) -> None:
    for asked in (
        coupons_of(worker, page=-1),
        coupons_of(worker, size=0),
        coupons_of(worker, size=101),
        coupons_of(worker, "no spaces", caller=ADMIN),
        coupons_of(worker, status=pb.COUPON_STATUS_UNSPECIFIED),
        worker.client.call("ListCouponPolicies", pb.ListCouponPoliciesRequest(caller=ADMIN, page=0, size=101)),
    ):
        assert isinstance(await refused(asked), ValidationFailed)
