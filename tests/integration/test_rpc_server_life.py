"""How a worker's gRPC server starts, bears a burst, shows itself and drains."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from infra.errors import StartFailed
from infra.local.ports import free_ports
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.rpc import SERVICE, Worker, answer, code_of, metadata, request, serving, settings, stub_of
from tests.fixtures.waiting import eventually

AT = datetime(2026, 5, 1, 9, tzinfo=UTC)
SECRET = settings().service_token_secret
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


async def burst(size: int) -> None:
    """So many calls at once from six clients are all answered; the library's default cancels a part of them."""
    async with serving() as worker:
        stubs = [stub_of(worker.address) for _ in range(6)]
        opened = [await stub.__aenter__() for stub in stubs]
        calls = [
            stub.IssueCoupon(request(), timeout=30, metadata=metadata())
            for _ in range(size // len(opened))
            for stub in opened
        ]
        answered = await asyncio.gather(*calls, return_exceptions=True)
        for stub in stubs:
            await stub.__aexit__(None, None, None)
    assert [each for each in answered if not isinstance(each, pb.Coupon)] == []
    assert len(answered) == size


async def test_a_burst_of_1500_calls_from_six_clients_is_answered() -> None:
    await burst(1_500)


@pytest.mark.full
async def test_a_burst_of_6000_calls_from_six_clients_is_answered() -> None:
    await burst(6_000)


async def test_a_second_server_on_the_port_does_not_start() -> None:
    async with serving() as worker:
        second = Worker(worker.coupons.issue, settings(grpc_port=worker.server.port))
        with pytest.raises(StartFailed, match=f"^port {worker.server.port} on 127.0.0.1 is taken$"):
            await second.server.start()


async def test_a_port_that_comes_free_in_time_is_taken() -> None:
    (port,) = free_ports(1)
    holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    worker = Worker(answer, settings(grpc_port=port, bind_retry_seconds=5))
    starting = asyncio.ensure_future(worker.server.start())
    await asyncio.sleep(0.3)
    assert not starting.done()
    holder.close()
    await holder.wait_closed()
    assert await worker.server.listening() == port
    await starting
    await worker.server.drain()


async def test_a_drain_says_not_serving_first_and_lets_calls_end() -> None:
    release = asyncio.Event()

    async def wait(message: pb.IssueCouponRequest) -> pb.Coupon:
        await release.wait()
        return pb.Coupon(id=7)

    async with serving(wait, drain_notice_seconds=0.3) as worker, stub_of(worker.address) as stub:
        begun = asyncio.ensure_future(stub.IssueCoupon(request(), timeout=5, metadata=metadata()))
        await eventually(lambda: worker.coupons.requests)
        async with grpc.aio.insecure_channel(worker.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                asked = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=2)
                assert asked.status == health_pb2.HealthCheckResponse.SERVING
            watched = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
            draining = asyncio.ensure_future(worker.server.drain())
            assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watched.cancel()
        release.set()
        assert (await begun).id == 7
        async with asyncio.timeout(1):
            await draining


async def services_of(worker: Worker) -> set[str]:
    async with grpc.aio.insecure_channel(worker.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))  # its stubs know only the other kind
        asked = stub.ServerReflectionInfo(timeout=2)
        await asked.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answered = await asked.read()
        asked.cancel()
    return {service.name for service in answered.list_services_response.service}


async def test_reflection_needs_no_token() -> None:
    async with serving() as worker:
        assert await services_of(worker) == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


async def test_production_has_no_reflection() -> None:
    async with serving(environment="production") as worker:
        assert await code_of(services_of(worker)) is grpc.StatusCode.UNIMPLEMENTED
