"""What a worker's gRPC server lets in, and what it lets out."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import grpc
import jwt
import pytest

from infra import errors
from infra.errors import Kind, Refused
from infra.rpc import call
from infra.rpc.status import UpstreamFailed
from infra.rpc.tokens import AUDIENCE, TYPE
from infra.settings import WorkerSettings
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.rpc import calling, code_of, metadata, request, serving, settings, soon, stub_of
from tests.fixtures.waiting import eventually

AT = datetime(2026, 5, 1, 9, tzinfo=UTC)
SECRET = settings().service_token_secret
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "refused",
    [
        Refused.of(Kind.STATE, "SOLD_OUT", {"available": 0, "requested": 1, "missing": 1, "retry_at": AT}),
        Refused.of(Kind.STATE, "ALREADY_ISSUED", {"coupon_id": "31"}),
        errors.NotFound("Coupon policy", "7"),
        errors.ValidationFailed({"orderAmount": "must be at least 1"}),
        errors.Forbidden(),
        errors.KeyReused(),
        errors.RateLimited(retry_at=AT),
        errors.Overloaded(),
        errors.Unavailable(),
        errors.DeadlineExceeded(),
    ],
    ids=lambda each: each.code if isinstance(each, Refused) else None,
)
async def test_each_refusal_crosses_typed_and_with_its_facts(refused: Refused) -> None:
    async def refuse(message: pb.IssueCouponRequest) -> pb.Coupon:
        raise refused

    async with serving(refuse) as worker, calling(worker.address) as upstream:
        with pytest.raises(type(refused)) as caught:
            await upstream.call("IssueCoupon", request(), deadline=soon())
    assert (caught.value.kind, caught.value.code, caught.value.facts) == (refused.kind, refused.code, refused.facts)
    if isinstance(refused, errors.ValidationFailed):
        assert isinstance(caught.value, errors.ValidationFailed)
        assert caught.value.fields == refused.fields


async def test_a_bug_crosses_as_a_bare_internal_without_a_word() -> None:
    async def fail(message: pb.IssueCouponRequest) -> pb.Coupon:
        raise RuntimeError("the password is swordfish")

    async with serving(fail) as worker, stub_of(worker.address) as stub, calling(worker.address) as upstream:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.IssueCoupon(request(), timeout=2, metadata=metadata())
        with pytest.raises(UpstreamFailed):
            await upstream.call("IssueCoupon", request(), deadline=soon())
    assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.INTERNAL, "")
    assert "swordfish" not in repr(failure.value.trailing_metadata())
    assert "RuntimeError" not in repr(failure.value)


def tokens() -> dict[str, tuple[tuple[str, str], ...]]:
    now = int(time.time())
    whole = {"iss": "api-gateway", "sub": "gw", "aud": AUDIENCE, "iat": now, "exp": now + 300}

    def bearer(claims: dict[str, Any], key: str, typ: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", "Bearer " + jwt.encode(claims, key, "HS256", headers={"typ": typ})),)

    return {
        "no token": (),
        "junk": (("authorization", "Bearer junk"),),
        "a user's token": bearer({"sub": "7", "role": "admin", "aud": "promo-api", "exp": now + 300}, SECRET, "JWT"),
        "wrong audience": bearer({**whole, "aud": "others"}, SECRET, TYPE),
        "wrong key": bearer(whole, "x" * 32, TYPE),
    }


@pytest.mark.parametrize("wrong", [pytest.param(value, id=why) for why, value in tokens().items()])
async def test_without_the_gateways_token_nothing_is_done(wrong: tuple[tuple[str, str], ...]) -> None:
    async with serving() as worker, stub_of(worker.address) as stub:
        assert await code_of(stub.IssueCoupon(request(), timeout=2, metadata=wrong)) is UNAUTHENTICATED
        batch = pb.BatchIssueCouponsRequest(items=[pb.IssueCouponItem(request=request(), deadline_ms=1_000)])
        assert await code_of(stub.BatchIssueCoupons(batch, timeout=2, metadata=wrong)) is UNAUTHENTICATED
        assert worker.coupons.requests == []


async def test_a_message_that_names_no_caller_is_refused_though_the_token_is_good() -> None:
    async def checked(message: pb.IssueCouponRequest) -> pb.Coupon:
        return pb.Coupon(user_id=call.command_of(message).caller.user_id)

    async with serving(checked) as worker, stub_of(worker.address) as stub:
        nobody = request()
        nobody.ClearField("caller")
        assert await code_of(stub.IssueCoupon(nobody, timeout=2, metadata=metadata())) is UNAUTHENTICATED
        items = [pb.IssueCouponItem(request=each, deadline_ms=1_000) for each in (nobody, request())]
        batch = pb.BatchIssueCouponsRequest(items=items)
        answered = await stub.BatchIssueCoupons(batch, timeout=2, metadata=metadata())
    assert answered.results[0].status.code == UNAUTHENTICATED.value[0]
    assert answered.results[1].coupon.user_id == "alice"


async def test_a_call_without_a_deadline_is_refused() -> None:
    async with serving() as worker, stub_of(worker.address) as stub:
        assert await code_of(stub.IssueCoupon(request(), metadata=metadata())) is grpc.StatusCode.INVALID_ARGUMENT
        assert worker.coupons.requests == []


async def test_a_call_with_too_little_time_left_is_not_begun() -> None:
    async with serving(rpc_deadline_margin_ms=400) as worker, stub_of(worker.address) as stub:
        late = stub.IssueCoupon(request(), timeout=0.4, metadata=metadata())
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await late
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert failure.value.details() == "DEADLINE_EXCEEDED"  # the worker's word, not the transport's
        assert worker.coupons.requests == []


async def test_a_deadline_is_trimmed_on_its_way_down() -> None:
    left: list[float] = []

    async def look(message: pb.IssueCouponRequest) -> pb.Coupon:
        left.append(call.current().remaining())
        return pb.Coupon()

    async with (
        serving(look, rpc_deadline_seconds_max=1, rpc_deadline_margin_ms=100) as worker,
        stub_of(worker.address) as stub,
    ):
        await stub.IssueCoupon(request(), timeout=0.5, metadata=metadata())
        await stub.IssueCoupon(request(), timeout=500, metadata=metadata())
    assert 0.2 < left[0] <= 0.45  # the wire rounds it up by some milliseconds
    assert 0.7 < left[1] <= 0.9


async def test_at_the_deadline_and_when_its_caller_leaves_a_handler_is_cancelled() -> None:
    cancelled = 0

    async def hang(message: pb.IssueCouponRequest) -> pb.Coupon:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return pb.Coupon()

    async with serving(hang) as worker, stub_of(worker.address) as stub:
        late = stub.IssueCoupon(request(), timeout=0.2, metadata=metadata())
        assert await code_of(late) is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: cancelled == 1)
        left = stub.IssueCoupon(request(), timeout=2, metadata=metadata())
        await eventually(lambda: len(worker.coupons.requests) == 2)
        left.cancel()
        await eventually(lambda: cancelled == 2)


async def test_above_its_limit_of_calls_in_flight_a_server_says_so() -> None:
    release = asyncio.Event()

    async def wait(message: pb.IssueCouponRequest) -> pb.Coupon:
        await release.wait()
        return pb.Coupon()

    async with serving(wait, rpc_inflight_max=2) as worker, calling(worker.address) as upstream:
        held = [asyncio.ensure_future(upstream.call("IssueCoupon", request(), deadline=soon())) for _ in range(2)]
        await eventually(lambda: len(worker.coupons.requests) == 2)
        with pytest.raises(errors.Overloaded):
            await upstream.call("IssueCoupon", request(), deadline=soon())
        release.set()
        await asyncio.gather(*held)
        await upstream.call("IssueCoupon", request(), deadline=soon())
        assert upstream.state().failures == 0


async def test_a_replayed_answer_says_so() -> None:
    async def replay(message: pb.IssueCouponRequest) -> pb.Coupon:
        if message.coupon_policy_id == 2:
            call.mark_replayed()
        return pb.Coupon()

    async with serving(replay) as worker, calling(worker.address) as upstream:
        assert not (await upstream.call("IssueCoupon", request(1), deadline=soon())).replayed
        assert (await upstream.call("IssueCoupon", request(2), deadline=soon())).replayed


async def test_the_request_id_travels_and_an_odd_one_is_replaced() -> None:
    async with serving() as worker, stub_of(worker.address) as stub:
        await stub.IssueCoupon(request(), timeout=2, metadata=metadata(x_request_id="r-1"))
        await stub.IssueCoupon(request(), timeout=2, metadata=metadata(x_request_id="r" * 200))
        await stub.IssueCoupon(request(), timeout=2, metadata=metadata())
        first, second, third = (each.request_id for each in worker.coupons.calls)
    assert first == "r-1"
    assert len(second) == len(third) == 32


async def test_a_message_above_the_limit_is_refused() -> None:
    async with serving() as worker, stub_of(worker.address) as stub:
        large = request(user_id="x" * (WorkerSettings().rpc_message_bytes_max + 1))
        refused = await code_of(stub.IssueCoupon(large, timeout=5, metadata=metadata()))
        assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert worker.coupons.requests == []
