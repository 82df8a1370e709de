"""Which instance of an upstream a call goes to, and what becomes of it when that one goes."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from infra import errors
from infra.local.ports import free_ports
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.rpc import answer, asked, calling, issue, serving, soon
from tests.fixtures.waiting import eventually


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


async def test_calls_fall_back_on_an_instance_that_was_away_and_is_connected_again() -> None:
    """However many fall with the other one, and though none has been tried there since."""
    port, held = free_ports(1)[0], asyncio.Event()

    async def hold(message: pb.IssueCouponRequest) -> pb.Coupon:
        return await asyncio.Future() if held.is_set() else pb.Coupon(id=7)

    alone = {"rpc_retry_budget_max": 1, "rpc_retry_ratio": 0, "rpc_instance_away_seconds": 60}
    async with (
        serving(hold, drain_seconds=0.05) as one,
        calling(one.address, f"127.0.0.1:{port}", **alone) as upstream,
    ):
        for _ in range(2):
            await issue(upstream)
        held.set()
        begun = [asyncio.ensure_future(issue(upstream)) for _ in range(12)]
        await eventually(lambda: len(one.coupons.requests) == 14)
        async with serving(grpc_port=port) as two:
            _, other = upstream._balancer.all()
            await eventually(lambda: other.serves(1))
            await one.server.drain()  # what is in flight there is cut off
            assert len(await asyncio.gather(*begun)) == len(two.coupons.requests) == 12


async def test_without_an_instance_nothing_is_there() -> None:
    async with calling() as upstream:
        with pytest.raises(errors.Unavailable):
            await issue(upstream)
        assert not await upstream.check(0.5)


async def test_an_upstream_is_up_while_one_of_its_instances_is() -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    async with serving() as worker, calling(worker.address, dead) as upstream:
        assert await upstream.check(1)
        await worker.server.drain()
        assert not await upstream.check(1)
