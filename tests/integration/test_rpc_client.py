"""How a gateway calls an upstream: which instance, how often, and when not at all."""

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from infra import errors
from infra.errors import Refused
from infra.local.ports import free_ports
from infra.rpc.client import Upstream
from infra.rpc.status import UpstreamFailed
from infra.rpc.transport import _files
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.rpc import UNARY, Worker, answer, calling, request, serving, settings, soon
from tests.fixtures.waiting import eventually


def issue(upstream: Upstream, message: pb.IssueCouponRequest | None = None, **more: Any) -> Awaitable[Any]:
    return upstream.call("IssueCoupon", message or request(), **{"deadline": soon(), **more})


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


async def asked(workers: Sequence[Worker]) -> list[int]:
    return [len(worker.coupons.requests) for worker in workers]


class Changing:
    """Instances that come and go."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    def current(self) -> tuple[str, ...]:
        return self.addresses


async def test_calls_go_to_all_instances_in_turn() -> None:
    async with serving() as one, serving() as two, calling(one.address, two.address) as upstream:
        for _ in range(10):
            await issue(upstream)
        assert await asked([one, two]) == [5, 5]


async def test_calls_with_the_same_key_go_to_one_instance_and_other_keys_to_others() -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(serving()) for _ in range(3)]
        upstream = await stack.enter_async_context(calling(*(worker.address for worker in workers)))
        for _ in range(5):
            await issue(upstream, key=7)
        assert sorted(await asked(workers)) == [0, 0, 5]
        for key in range(60):
            await issue(upstream, key=key)
        assert min(await asked(workers)) >= 8


async def test_when_an_instance_leaves_only_its_keys_move() -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(serving()) for _ in range(3)]
        instances = Changing(*(worker.address for worker in workers))
        upstream = await stack.enter_async_context(calling(instances=instances))

        async def homes() -> dict[int, str]:
            return {key: (await issue(upstream, key=key)).address for key in range(40)}

        before = await homes()
        instances.addresses = instances.addresses[:2]
        after = await homes()
        stayed = {key for key, address in before.items() if address in instances.addresses}
        assert 0 < len(stayed) < 40
        assert all(before[key] == after[key] for key in stayed)
        assert set(after.values()) == set(instances.addresses)


async def test_a_killed_instance_among_two_is_not_noticed_by_callers() -> None:
    async with serving() as one, calling(one.address, f"127.0.0.1:{free_ports(1)[0]}") as upstream:
        for key in range(100):
            await issue(upstream, key=key)
        assert upstream.state().failures == 0
    async with serving() as one, serving(drain_seconds=0.1) as two, calling(one.address, two.address) as upstream:
        for _ in range(10):
            await issue(upstream)
        await two.server.drain()
        for _ in range(100):
            await issue(upstream)
        assert upstream.state().failures == 0


async def test_under_load_an_instance_drains_without_a_failed_call() -> None:
    async def work(message: pb.IssueCouponRequest) -> pb.Coupon:
        await asyncio.sleep(0.002)
        return await answer(message)

    async with serving(work) as one, serving(work) as two, calling(one.address, two.address) as upstream:
        drained = asyncio.Event()

        async def ask_on() -> None:
            while not drained.is_set():
                await issue(upstream)

        load = [asyncio.ensure_future(ask_on()) for _ in range(64)]
        await eventually(lambda: len(one.coupons.requests) > 200)
        await one.server.drain()
        before = len(two.coupons.requests)
        await eventually(lambda: len(two.coupons.requests) > before + 200)
        drained.set()
        await asyncio.gather(*load)
        assert upstream.state().failures == 0


async def test_connections_are_renewed_without_a_failed_call() -> None:
    async with serving(rpc_connection_age_ms=100) as worker, calling(worker.address) as upstream:
        until = soon(1)
        while asyncio.get_running_loop().time() < until:
            await asyncio.gather(*(issue(upstream) for _ in range(16)))
        assert upstream.state().failures == 0


async def test_an_instance_that_is_back_is_asked_again() -> None:
    (port,) = free_ports(1)
    async with serving() as one, calling(one.address, f"127.0.0.1:{port}", rpc_instance_away_seconds=0.1) as upstream:
        for _ in range(4):
            await issue(upstream)
        async with serving(grpc_port=port) as two:

            async def two_is_asked() -> bool:
                await issue(upstream)
                return bool(two.coupons.requests)

            await eventually(two_is_asked)


async def test_calls_in_flight_end_well_when_their_instance_leaves() -> None:
    release = asyncio.Event()

    async def wait(message: pb.IssueCouponRequest) -> pb.Coupon:
        await release.wait()
        return pb.Coupon(id=7)

    async with serving(wait) as one, serving() as two:
        instances = Changing(one.address)
        async with calling(instances=instances) as upstream:
            begun = asyncio.ensure_future(issue(upstream))
            await eventually(lambda: one.coupons.requests)
            instances.addresses = (two.address,)
            await issue(upstream)
            release.set()
            assert (await begun).message.id == 7
            await issue(upstream)
            assert await asked([one, two]) == [1, 2]


async def test_without_an_instance_nothing_is_there() -> None:
    async with calling() as upstream:
        with pytest.raises(errors.Unavailable):
            await issue(upstream)
        assert not await upstream.check(0.5)


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


async def test_an_upstream_is_up_while_one_of_its_instances_is() -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    async with serving() as worker, calling(worker.address, dead) as upstream:
        assert await upstream.check(1)
        await worker.server.drain()
        assert not await upstream.check(1)


async def test_tls_when_set_wants_a_certificate_of_both_sides(certificates: dict[str, Any]) -> None:
    async with serving(**certificates) as worker:
        async with calling(worker.address, **certificates) as upstream:
            await issue(upstream)
            assert await upstream.check(1)
        async with calling(worker.address) as plain:
            with pytest.raises(errors.Unavailable):
                await issue(plain, deadline=soon(1))
        nobody = grpc.ssl_channel_credentials(_files(settings(**certificates))[2])
        async with grpc.aio.secure_channel(worker.address, nobody) as nameless:
            call: Any = nameless.unary_unary(f"/{UNARY}")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(b"", timeout=1)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert worker.coupons.requests[1:] == []


@pytest.mark.parametrize("names", [("grpc_tls_cert",), ("grpc_tls_cert", "grpc_tls_key", "grpc_tls_ca")])
async def test_half_set_or_missing_certificates_stop_the_start(names: tuple[str, ...]) -> None:
    with pytest.raises(errors.StartFailed, match=r"^GRPC_TLS_"):
        async with serving(answer, **dict.fromkeys(names, "missing.pem")):
            pass


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Any]:
    """A certificate for 127.0.0.1 that is its own authority, as settings."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=promo",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        check=True,
        capture_output=True,
    )
    return {"grpc_tls_cert": str(cert), "grpc_tls_key": str(key), "grpc_tls_ca": str(cert)}
