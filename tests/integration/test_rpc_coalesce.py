"""Requests for one row share a call, and each keeps what is its own."""

import asyncio

import pytest

from infra import errors, logs
from infra.rpc.client import Reply
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.coalesced import ROW, Gate, together
from tests.fixtures.rpc import answer, request, soon
from tests.fixtures.waiting import eventually


async def test_a_lone_request_travels_as_it_is() -> None:
    async with together(answer) as row:
        for _ in range(5):
            assert (await row.ask()).message.user_id == "alice"
        assert len(row.worker.coupons.unaries) == 5
        assert row.worker.coupons.batches == []
        assert row.coalescer._lanes == {}


async def test_while_two_calls_are_in_flight_the_rest_travels_in_one() -> None:
    gate = Gate()
    async with together(gate) as row:
        await row.fill()
        waiting = [request(ROW, user_id=f"user-{number}") for number in range(20)]
        for message in waiting:
            row.ask(message)
        await asyncio.sleep(0.05)
        assert len(row.worker.coupons.requests) == 2
        gate.open.set()
        replies = await asyncio.gather(*row.calls)
        assert [reply.message.user_id for reply in replies[2:]] == [message.user_id for message in waiting]
        assert row.worker.coupons.batches == [[message.command_id for message in waiting]]
        assert row.coalescer._lanes == {}


async def test_one_that_waits_alone_travels_as_it_is() -> None:
    gate = Gate()
    async with together(gate) as row:
        await row.fill()
        row.ask()
        gate.open.set()
        await asyncio.gather(*row.calls)
        assert len(row.worker.coupons.unaries) == 3
        assert row.worker.coupons.batches == []


async def test_other_rows_do_not_wait() -> None:
    gate = Gate()

    async def only_this_row(message: pb.IssueCouponRequest) -> pb.Coupon:
        return await (gate if message.coupon_policy_id == ROW else answer)(message)

    async with together(only_this_row) as row:
        await row.fill()
        row.ask()
        assert (await row.ask(request(8), key=8)).message.user_id == "alice"
        gate.open.set()
        await row.outcomes()


async def test_each_item_travels_with_its_own_request_id_and_deadline() -> None:
    gate = Gate()
    async with together(gate) as row:
        await row.fill()
        for number in range(3):
            logs.request_id.set(f"r-{number}")
            row.ask(deadline=soon(1 + number))
        logs.request_id.set(None)
        await asyncio.sleep(0)
        gate.open.set()
        await row.outcomes()
        served = row.worker.coupons.calls[2:]
    assert [each.request_id for each in served] == ["r-0", "r-1", "r-2"]
    assert [round(each.deadline - served[0].deadline) for each in served] == [0, 1, 2]


async def test_a_caller_that_leaves_takes_nobody_along() -> None:
    first, rest = Gate(), Gate()

    async def issue(message: pb.IssueCouponRequest) -> pb.Coupon:
        return await (first if message.coupon_policy_id == 1 else rest)(message)

    async with together(issue, rpc_coalesce_flights_max=1) as row:
        row.ask(request(1))
        await eventually(lambda: row.worker.coupons.requests)
        for _ in range(3):
            row.ask()
        await asyncio.sleep(0)
        first.open.set()
        await eventually(lambda: len(row.worker.coupons.requests) == 4)
        row.calls[1].cancel()
        await asyncio.sleep(0.05)  # a cancel on the wire would have arrived
        rest.open.set()
        outcomes = await row.outcomes()
        assert [len(batch) for batch in row.worker.coupons.batches] == [3]
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert all(isinstance(outcome, Reply) for outcome in (outcomes[0], *outcomes[2:]))


async def test_a_caller_that_leaves_while_it_waits_is_not_sent() -> None:
    gate = Gate()
    async with together(gate) as row:
        await row.fill()
        for _ in range(4):
            row.ask()
        await asyncio.sleep(0)
        row.calls[3].cancel()
        gate.open.set()
        await row.outcomes()
        assert [len(batch) for batch in row.worker.coupons.batches] == [3]


async def test_who_waits_past_its_deadline_is_told_in_time_and_not_sent() -> None:
    gate = Gate()
    async with together(gate) as row:
        await row.fill()
        begin = asyncio.get_running_loop().time()
        late = row.ask(deadline=soon(0.1))
        row.ask()
        with pytest.raises(errors.DeadlineExceeded):
            await late
        assert asyncio.get_running_loop().time() - begin < 0.3
        gate.open.set()
        await row.outcomes()
        assert row.worker.coupons.batches == []
        assert len(row.worker.coupons.unaries) == 3


async def test_who_finds_a_full_queue_is_told_at_once() -> None:
    gate = Gate()
    async with together(gate, rpc_coalesce_queue_max=3) as row:
        await row.fill()
        for _ in range(3):
            row.ask()
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded):
            await row.ask()
        gate.open.set()
        await row.outcomes()
        assert (await row.ask()).message.user_id == "alice"


async def test_a_call_carries_no_more_items_than_it_may() -> None:
    gate = Gate()
    async with together(gate, rpc_coalesce_items_max=4) as row:
        await row.fill()
        for _ in range(10):
            row.ask()
        await asyncio.sleep(0)
        gate.open.set()
        assert all(isinstance(outcome, Reply) for outcome in await row.outcomes())
        assert sorted(len(batch) for batch in row.worker.coupons.batches) == [2, 4, 4]


async def test_a_full_call_of_the_largest_answers_arrives() -> None:
    async def verbose(message: pb.IssueCouponRequest) -> pb.Coupon:
        return pb.Coupon(
            user_id=message.user_id, policy=pb.PolicyTerms(title="\U0001f3ab" * 200, description="\U0001f3ab" * 2000)
        )

    gate = Gate(verbose)
    async with together(gate) as row:
        await row.fill()
        for _ in range(256):
            row.ask()
        await asyncio.sleep(0)
        gate.open.set()
        assert all(isinstance(outcome, Reply) for outcome in await row.outcomes())
        assert [len(batch) for batch in row.worker.coupons.batches] == [256]


async def test_switched_off_every_request_travels_as_it_is() -> None:
    gate = Gate()
    async with together(gate, enabled=False) as row:
        for _ in range(20):
            row.ask()
        await eventually(lambda: len(row.worker.coupons.unaries) == 20)
        gate.open.set()
        await row.outcomes()
        assert row.worker.coupons.batches == []
