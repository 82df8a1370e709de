"""How a gateway calls an upstream: which instance, how often, and when not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from infra import errors
from infra.errors import Refused
from infra.rpc.status import UpstreamFailed
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.rpc import UNARY, answer, asked, calling, issue, request, serving, soon
from tests.fixtures.waiting import eventually


def failing(error: Callable[[], Exception], times: int) -> Callable[[pb.IssueCouponRequest], Awaitable[pb.Coupon]]:
    """Fails so many times, then answers."""
    left = times

    async def fail(message: pb.IssueCouponRequest) -> pb.Coupon:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error()
        return await answer(message)

    return fail


async def test_what_was_not_there_is_asked_once_more_by_the_same_command_id() -> None:
    async with serving(failing(errors.Unavailable, 1)) as worker, calling(worker.address) as upstream:
        message = request()
        assert (await issue(upstream, message)).message.user_id == "alice"
        assert worker.coupons.unaries == [message.command_id] * 2


async def test_it_is_asked_once_more_and_not_again() -> None:
    async with serving(failing(errors.Unavailable, 3)) as worker, calling(worker.address) as upstream:
        with pytest.raises(errors.Unavailable):
            await issue(upstream)
        assert await asked([worker]) == [2]


@pytest.mark.parametrize(
    "error",
    [errors.Forbidden, errors.Overloaded, errors.DeadlineExceeded, errors.RateLimited, RuntimeError],
)
async def test_an_answer_or_a_bug_is_not_asked_for_again(error: type[Exception]) -> None:
    async with serving(failing(error, 1)) as worker, calling(worker.address) as upstream:
        with pytest.raises((Refused, UpstreamFailed)):
            await issue(upstream)
        assert await asked([worker]) == [1]


async def test_a_cancelled_that_nobody_asked_for_is_asked_once_more() -> None:
    seen: list[object] = []

    async def cancel(message: object, context: Any) -> pb.Coupon:
        seen.append(message)
        if len(seen) == 1:
            await context.abort(grpc.StatusCode.CANCELLED, "")
        return pb.Coupon(id=9)

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(cancel, pb.IssueCouponRequest.FromString, pb.Coupon.SerializeToString)
    service, _, method = UNARY.rpartition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(f"127.0.0.1:{port}") as upstream:
        assert (await issue(upstream)).message.id == 9
    await server.stop(None)
    assert len(seen) == 2


async def test_retries_of_an_outage_are_a_tenth_of_its_calls() -> None:
    never = {"breaker_calls_min": 10_000}
    async with serving(failing(errors.Unavailable, 10_000)) as worker, calling(worker.address, **never) as upstream:
        await asyncio.gather(*(issue(upstream) for _ in range(300)), return_exceptions=True)
        assert 300 < (await asked([worker]))[0] <= 300 * 1.1 + 10


async def test_the_breaker_opens_refuses_tries_once_and_closes() -> None:
    broken = True
    trying = asyncio.Event()

    async def flap(message: pb.IssueCouponRequest) -> pb.Coupon:
        if broken:
            raise errors.Unavailable
        await trying.wait()
        return pb.Coupon()

    breaker = {"breaker_open_seconds": 0.3, "breaker_calls_min": 5}
    async with serving(flap) as worker, calling(worker.address, **breaker) as upstream:
        while upstream.state().state == "CLOSED":
            with pytest.raises(errors.Unavailable):
                await issue(upstream)
        assert upstream.state().state == "OPEN"
        before = await asked([worker])
        with pytest.raises(errors.Unavailable):
            await issue(upstream)
        assert await asked([worker]) == before
        assert upstream.state().rejected == 1

        broken = False
        tries: list[asyncio.Future[Any]] = []

        async def one_is_let_through() -> bool:
            tries.append(asyncio.ensure_future(issue(upstream)))
            return upstream.state().state == "HALF_OPEN"

        await eventually(one_is_let_through)
        with pytest.raises(errors.Unavailable):
            await issue(upstream)
        trying.set()
        await asyncio.gather(*tries, return_exceptions=True)
        assert upstream.state().state == "CLOSED"
        await issue(upstream)


@pytest.mark.parametrize(
    "error",
    [errors.Forbidden, errors.Overloaded, errors.RateLimited, RuntimeError],
)
async def test_refusals_full_queues_and_bugs_never_open_the_breaker(error: type[Exception]) -> None:
    async with serving(failing(error, 50)) as worker, calling(worker.address, breaker_calls_min=5) as upstream:
        for _ in range(50):
            with pytest.raises((Refused, UpstreamFailed)):
                await issue(upstream)
        state = upstream.state()
    assert (state.state, state.failures, state.successes, state.rejected) == ("CLOSED", 0, 50, 0)


async def test_a_caller_that_leaves_tells_nothing_of_the_upstream() -> None:
    async def hang(message: pb.IssueCouponRequest) -> pb.Coupon:
        await asyncio.Event().wait()
        return pb.Coupon()

    async with serving(hang) as worker, calling(worker.address) as upstream:
        calls = [asyncio.ensure_future(issue(upstream)) for _ in range(20)]
        await eventually(lambda: len(worker.coupons.requests) == 20)
        for call in calls:
            call.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*calls, return_exceptions=True)
        )
        state = upstream.state()
    assert (state.state, state.failures, state.successes) == ("CLOSED", 0, 0)


async def test_an_upstream_that_does_not_answer_costs_no_more_than_the_deadline() -> None:
    async def hang(message: pb.IssueCouponRequest) -> pb.Coupon:
        await asyncio.Event().wait()
        return pb.Coupon()

    async with serving(hang) as worker, calling(worker.address) as upstream:
        begin = asyncio.get_running_loop().time()
        with pytest.raises(errors.DeadlineExceeded):
            await issue(upstream, deadline=soon(0.2))
        assert asyncio.get_running_loop().time() - begin < 0.35
        assert upstream.state().failures == 1


async def test_a_call_whose_time_is_up_is_not_sent() -> None:
    async with serving() as worker, calling(worker.address) as upstream:
        with pytest.raises(errors.DeadlineExceeded):
            await issue(upstream, deadline=soon(0.001))
        assert await asked([worker]) == [0]
        assert upstream.state().failures == 0


async def test_calls_in_flight_are_bounded_and_who_waits_too_long_is_told() -> None:
    release = asyncio.Event()

    async def wait(message: pb.IssueCouponRequest) -> pb.Coupon:
        await release.wait()
        return pb.Coupon()

    bounds = {"rpc_client_inflight_max": 2, "rpc_client_wait_seconds": 0.1, "rpc_client_queue_max": 1}
    async with serving(wait) as worker, calling(worker.address, **bounds) as upstream:
        held = [asyncio.ensure_future(issue(upstream)) for _ in range(2)]
        await eventually(lambda: len(worker.coupons.requests) == 2)
        waits = asyncio.ensure_future(issue(upstream))
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded):  # at once: one waits already
            await issue(upstream)
        assert not waits.done()
        with pytest.raises(errors.Overloaded):
            await waits
        release.set()
        await asyncio.gather(*held)
        await issue(upstream)
        assert await asked([worker]) == [3]


async def test_a_worker_that_does_not_believe_us_is_broken_not_the_caller() -> None:
    async with serving() as worker, calling(worker.address, service_token_secret="another" * 8) as upstream:
        with pytest.raises(UpstreamFailed):
            await issue(upstream)
