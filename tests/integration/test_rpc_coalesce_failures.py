"""What becomes of the items when their shared call, or one of them, fails."""

import asyncio
from typing import Any

import pytest

from infra import errors
from infra.rpc.client import Reply
from infra.rpc.serving import Served
from infra.rpc.status import UpstreamFailed
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.coalesced import Gate, Together, fail_batches, once_unavailable, over, refusing, together
from tests.fixtures.rpc import calling, request, serving, soon


async def test_each_item_has_its_own_outcome_and_a_poisoned_one_fails_alone() -> None:
    bug, sold = RuntimeError, lambda: errors.Refused.of(errors.Kind.STATE, "SOLD_OUT", {"available": 0})
    gate = Gate(refusing((3, bug), (4, sold), (5, lambda: errors.ValidationFailed({"userId": "must match"}))))
    async with together(gate) as row:
        await row.fill()
        for policy in (1, 2, 3, 4, 5, 6):
            row.ask(request(policy))
        gate.open.set()
        plain, replayed, poisoned, refused, invalid, last = (await row.outcomes())[2:]
    assert isinstance(plain, Reply)
    assert not plain.replayed
    assert isinstance(replayed, Reply)
    assert replayed.replayed
    assert isinstance(poisoned, UpstreamFailed)
    assert isinstance(refused, errors.Refused)
    assert (refused.code, refused.facts) == ("SOLD_OUT", {"available": 0})
    assert isinstance(invalid, errors.ValidationFailed)
    assert invalid.fields == {"userId": "must match"}
    assert isinstance(last, Reply)


async def test_a_call_that_fails_as_a_whole_is_asked_for_item_by_item_by_command_id() -> None:
    gate = Gate()
    async with together(gate) as row:
        fail_batches(row.worker, RuntimeError, 99)
        await row.fill()
        for _ in range(5):
            row.ask()
        await asyncio.sleep(0)
        gate.open.set()
        outcomes = await row.outcomes()
        assert all(isinstance(outcome, Reply) for outcome in outcomes)
        (batch,) = row.worker.coupons.batches
        assert sorted(row.worker.coupons.unaries[2:]) == sorted(batch)


async def test_a_lost_call_is_asked_for_once_more_with_the_same_command_ids() -> None:
    gate = Gate()
    async with together(gate) as row:
        fail_batches(row.worker, errors.Unavailable, 1)
        await row.fill()
        for _ in range(50):  # more than the budget of retries: the call counts as one
            row.ask()
        await asyncio.sleep(0)
        gate.open.set()
        assert all(isinstance(outcome, Reply) for outcome in await row.outcomes())
        first, second = row.worker.coupons.batches
        assert first == second
        assert len(row.worker.coupons.unaries) == 2


async def test_when_nobody_is_there_each_is_told_so() -> None:
    gate = Gate()
    async with together(gate) as row:
        fail_batches(row.worker, errors.Unavailable, 99)
        await row.fill()
        for _ in range(5):
            row.ask()
        await asyncio.sleep(0)
        gate.open.set()
        told = (await row.outcomes())[2:]
    assert [type(each) for each in told] == [errors.Unavailable] * 5
    assert len({id(each) for each in told}) == 5
    assert len(row.worker.coupons.batches) == 2


async def test_an_item_that_found_nobody_behind_the_worker_is_asked_for_alone() -> None:
    gate = Gate(once_unavailable(3))
    async with together(gate) as row:
        await row.fill()
        for policy in (1, 3, 4):
            row.ask(request(policy))
        await asyncio.sleep(0)
        gate.open.set()
        assert all(isinstance(outcome, Reply) for outcome in await row.outcomes())
        (batch,) = row.worker.coupons.batches
        assert row.worker.coupons.unaries[2:] == [batch[1]]


async def test_an_answer_of_another_length_is_believed_for_no_item() -> None:
    gate = Gate()
    async with together(gate) as row:

        async def short(*_: Any) -> Any:
            row.worker.coupons.batches.append([])
            return [Served(message=pb.Coupon(id=66))]

        row.worker.coupons._items.serve = short  # type: ignore[method-assign, assignment]  # the fault of this test
        await row.fill()
        for _ in range(3):
            row.ask()
        await asyncio.sleep(0)
        gate.open.set()
        assert all(isinstance(each, Reply) and each.message.id == 1 for each in await row.outcomes())
        assert row.worker.coupons.batches[1:] == [[]]


async def test_when_the_process_ends_who_waits_is_told() -> None:
    gate = Gate()
    async with serving(gate) as worker, calling(worker.address) as upstream:
        coalescer = over(upstream)
        running = asyncio.ensure_future(coalescer.run())
        await asyncio.sleep(0)
        row = Together(worker, coalescer)
        await row.fill()
        row.ask()
        row.ask()
        await asyncio.sleep(0)
        running.cancel()
        assert [type(each) for each in await asyncio.gather(*row.calls[2:], return_exceptions=True)] == [
            errors.Unavailable
        ] * 2
        gate.open.set()
        await row.outcomes()


async def test_a_call_of_too_many_items_is_refused_by_the_worker() -> None:
    async with serving(rpc_coalesce_items_max=2) as worker, calling(worker.address) as upstream:
        items = [pb.IssueCouponItem(request=request(), deadline_ms=1_000) for _ in range(3)]
        with pytest.raises(errors.ValidationFailed):
            await upstream.call("BatchIssueCoupons", pb.BatchIssueCouponsRequest(items=items), deadline=soon())
        assert worker.coupons.requests == []


async def test_an_item_whose_time_is_up_is_not_begun_and_the_others_are() -> None:
    async with serving() as worker, calling(worker.address) as upstream:
        items = [pb.IssueCouponItem(request=request(), deadline_ms=left) for left in (1, 1_000)]
        reply = await upstream.call("BatchIssueCoupons", pb.BatchIssueCouponsRequest(items=items), deadline=soon())
        late, good = reply.message.results
    assert late.status.message == "DEADLINE_EXCEEDED"
    assert good.coupon.user_id == "alice"
    assert len(worker.coupons.requests) == 1
