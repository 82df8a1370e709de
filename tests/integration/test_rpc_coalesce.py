"""Requests for one row share a call, and each keeps what is its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra import errors, logs
from infra.rpc import call
from infra.rpc.client import Reply, Upstream
from infra.rpc.coalesce import Coalescer
from infra.rpc.serving import Served
from infra.rpc.status import UpstreamFailed
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.rpc import Issue, Worker, answer, calling, request, serving, settings, soon
from tests.fixtures.waiting import eventually

ROW = 7


class Gate:
    """Holds every request until it is opened, then answers by `then`."""

    def __init__(self, then: Issue = answer) -> None:
        self.open = asyncio.Event()
        self.then = then

    async def __call__(self, message: pb.IssueCouponRequest) -> pb.Coupon:
        await self.open.wait()
        return await self.then(message)


class Together:
    """A coalescer over a real worker, and requests in flight."""

    def __init__(self, worker: Worker, coalescer: Coalescer) -> None:
        self.worker = worker
        self.coalescer = coalescer
        self.calls: list[asyncio.Future[Reply[Any]]] = []

    def ask(self, message: pb.IssueCouponRequest | None = None, **more: Any) -> "asyncio.Future[Reply[Any]]":
        ask = self.coalescer.call(message or request(ROW), **{"key": ROW, "deadline": soon(), **more})
        self.calls.append(asyncio.ensure_future(ask))
        return self.calls[-1]

    async def fill(self) -> None:
        """Two calls in flight, as many as one row may have."""
        for _ in range(2):
            self.ask()
        await eventually(lambda: len(self.worker.coupons.requests) == 2)

    async def outcomes(self) -> list[object]:
        outcomes: list[object] = await asyncio.gather(*self.calls, return_exceptions=True)
        return outcomes


@asynccontextmanager
async def together(issue: Issue, *, enabled: bool = True, **changed: Any) -> AsyncIterator[Together]:
    async with serving(issue, **changed) as worker, calling(worker.address, **changed) as upstream:
        coalescer = over(upstream, enabled=enabled, **changed)
        running = asyncio.ensure_future(coalescer.run())
        await asyncio.sleep(0)
        yield Together(worker, coalescer)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def over(upstream: Upstream, *, enabled: bool = True, **changed: Any) -> Coalescer:
    return Coalescer(
        "rpc.test",
        upstream,
        unary="IssueCoupon",
        batch="BatchIssueCoupons",
        batch_request=pb.BatchIssueCouponsRequest,
        settings=settings(**changed),
        enabled=enabled,
    )


def refusing(*kinds: tuple[int, Callable[[], Exception]]) -> Issue:
    """Fails by the amount of the request's policy id; answers the rest."""
    failures = dict(kinds)

    async def issue(message: pb.IssueCouponRequest) -> pb.Coupon:
        if message.coupon_policy_id in failures:
            raise failures[message.coupon_policy_id]()
        if message.coupon_policy_id == 2:
            call.mark_replayed()
        return pb.Coupon(user_id=message.user_id)

    return issue


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


async def test_switched_off_every_request_travels_as_it_is() -> None:
    gate = Gate()
    async with together(gate, enabled=False) as row:
        for _ in range(20):
            row.ask()
        await eventually(lambda: len(row.worker.coupons.unaries) == 20)
        gate.open.set()
        await row.outcomes()
        assert row.worker.coupons.batches == []


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


def fail_batches(worker: Worker, error: Callable[[], Exception], times: int) -> None:
    """The batch call itself fails so many times."""
    items, left = worker.coupons._items, times
    serve: Callable[..., Awaitable[Any]] = items.serve

    async def fail(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error()
        return await serve(*args)

    items.serve = fail  # type: ignore[method-assign, assignment]  # the fault of this test


def once_unavailable(policy_id: int) -> Issue:
    """This policy's first request finds nobody."""
    seen: set[int] = set()

    async def issue(message: pb.IssueCouponRequest) -> pb.Coupon:
        if message.coupon_policy_id == policy_id and policy_id not in seen:
            seen.add(policy_id)
            raise errors.Unavailable
        return await answer(message)

    return issue
