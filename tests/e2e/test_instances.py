"""Several instances of one process: a limit they share, a restart nobody notices, and who is alive by etcd."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from infra.local.ports import free_ports
from infra.local.servers import start_etcd
from tests.fixtures.platform import Platform, Reply, running, together, unique
from tests.fixtures.shopping import earn, issue, make_policy, make_sale, order
from tests.fixtures.waiting import eventually

CLIENTS = 12
LIST_PRODUCTS = "promo.timesale.v1.TimeSaleService/ListProducts"
LIMIT, WINDOW_SECONDS = 100, 60  # the usual ones


async def test_two_gateways_share_the_limit_of_a_user(platform: Platform) -> None:
    user = unique()
    begin = time.monotonic()
    asks = [partial(platform.get, "/coupon-policies", user=user, gateway=number % 2) for number in range(150)]
    replies = await together(asks, at_once_max=32)
    refilled = int((time.monotonic() - begin) * LIMIT / WINDOW_SECONDS) + 1

    found = Counter(reply.status for reply in replies)
    assert LIMIT <= found[200] <= LIMIT + refilled
    assert set(found) == {200, 429}
    for reply in replies:
        assert reply.headers["ratelimit-policy"] == f'"default";q={LIMIT};w={WINDOW_SECONDS}'
        assert reply.headers["ratelimit"].startswith('"default";r=')
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.code == "RATE_LIMITED"
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW_SECONDS
    (await platform.get("/coupon-policies", user=unique())).expect(200)


@pytest.mark.parametrize(
    "process",
    ["coupon", pytest.param("timesale", marks=pytest.mark.full), pytest.param("point", marks=pytest.mark.full)],
)
async def test_a_rolling_restart_under_load_fails_no_request(platform: Platform, process: str) -> None:
    policy, sale = await make_policy(platform, totalQuantity=100_000), await make_sale(platform, quantity=100_000)

    async def ask() -> Reply:
        if process == "coupon":
            return await issue(platform, policy, unique())
        if process == "timesale":
            return await order(platform, sale, unique())
        return await earn(platform, unique(), 5)

    async with loaded(ask) as replies:
        for name in platform.instances(process):
            before = len(replies)
            assert await platform.stop(name) == 0
            await eventually(lambda: len(replies) > before + CLIENTS)  # noqa: B023 - awaited at once
            await platform.start(name)
            await eventually(lambda: len(replies) > before + 10 * CLIENTS, seconds=20)  # noqa: B023 - awaited at once

    assert Counter((reply.status, reply.code) for reply in replies) == {(201, "OK"): len(replies)}


async def test_etcd_tells_the_gateway_who_is_alive(platform: Platform, tmp_path: Path) -> None:
    """Another gateway with workers of its own beside the running ones, on the same databases."""
    async with etcd(tmp_path / "etcd") as hosts, beside(platform, tmp_path / "state", hosts) as other:
        both = {other.instance(name).address for name in other.instances("timesale")}
        sale = await make_sale(other)
        await eventually(lambda: is_registered(hosts, both))
        await eventually(lambda: both_serve(other), seconds=20)
        other.kill("timesale-2")
        replies = await together([partial(order, other, sale, unique()) for _ in range(20)])
        await eventually(lambda: is_registered(hosts, {other.instance("timesale").address}), seconds=20)
        await other.start("timesale-2")
        await eventually(lambda: is_registered(hosts, both), seconds=20)
        assert await other.stop("timesale") == 0
        left = await registered(hosts)
        replies += await together([partial(order, other, sale, unique()) for _ in range(20)])
        await rush_from_two_sides(platform, other)

    assert Counter(reply.status for reply in replies) == {201: 40}
    assert left == both - {other.instance("timesale").address}


async def rush_from_two_sides(platform: Platform, other: Platform) -> None:
    """Their gateways send one sale's orders to different instances, which meet at its row alone."""
    sale = await make_sale(platform, quantity=50)
    replies = await together([partial(order, (platform, other)[n % 2], sale, unique()) for n in range(120)])

    assert Counter(reply.code for reply in replies) == {"OK": 50, "SOLD_OUT": 70}
    assert sorted(reply.body["queueNumber"] for reply in replies if reply.status == 201) == list(range(1, 51))


@asynccontextmanager
async def etcd(folder: Path) -> AsyncIterator[str]:
    server = await start_etcd(folder, *free_ports(2))
    try:
        yield server.url
    finally:
        await server.stop()


@asynccontextmanager
async def beside(platform: Platform, folder: Path, etcd_hosts: str) -> AsyncIterator[Platform]:
    """Its workers are found by etcd alone: the fixed addresses are wrong."""
    wrong = {f"GATEWAY_{worker}_ADDRESSES": "127.0.0.1:1" for worker in ("COUPON", "POINT", "TIMESALE")}
    names = {"DATABASE_URL": "postgres", "REDIS_URL": "valkey", "KAFKA_BROKERS": "kafka"}
    servers = {setting: platform.urls[name] for setting, name in names.items()}
    settings = {"ETCD_HOSTS": etcd_hosts, "ETCD_LEASE_SECONDS": "3", **wrong}
    async with running(folder, {"timesale": 2}, servers=servers, **settings) as other:
        yield other


@asynccontextmanager
async def loaded(ask: Callable[[], Awaitable[Reply]]) -> AsyncIterator[list[Reply]]:
    """Clients that ask one after the other during the block; what they were answered."""
    replies: list[Reply] = []
    stopped = asyncio.Event()

    async def client() -> None:
        while not stopped.is_set():
            replies.append(await ask())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(client())
        try:
            yield replies
        finally:
            stopped.set()


async def both_serve(other: Platform) -> bool:
    """Reads go to the instances in turn."""
    for _ in range(4):
        (await other.get("/products")).expect(200)
    served = [
        await other.metric(name, "rpc_server_call_duration_seconds_count", rpc_method=LIST_PRODUCTS)
        for name in other.instances("timesale")
    ]
    return all(served)


async def is_registered(hosts: str, addresses: set[str]) -> bool:
    return await registered(hosts) == addresses


async def registered(hosts: str) -> set[str]:
    """The addresses of the timesale workers that etcd knows."""
    prefix = "/services/timesale-service/"
    asked = {
        "key": base64.b64encode(prefix.encode()).decode(),
        "range_end": base64.b64encode((prefix[:-1] + "0").encode()).decode(),
    }
    async with httpx2.AsyncClient() as client:
        answer = (await client.post(f"http://{hosts}/v3/kv/range", json=asked)).json()
    keys = [base64.b64decode(each["key"]).decode() for each in answer.get("kvs", [])]
    return {key.removeprefix(prefix) for key in keys}
