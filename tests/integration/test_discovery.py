"""Workers tell etcd where they serve, gateways follow it; a real etcd, killed and restarted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from infra.discovery import Registration, Watch, announce, find
from infra.discovery.etcd import Etcd
from infra.local.ports import free_ports
from infra.local.servers import Server, start_etcd
from infra.settings import Settings
from tests.fixtures.waiting import eventually

LEASE_SECONDS = 2
SERVICE = "echo-service"


@pytest.fixture(scope="module")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = await start_etcd(tmp_path_factory.mktemp("etcd"), *free_ports(2))
    yield server
    await server.stop()


@pytest.fixture
def settings(etcd: Server, request: pytest.FixtureRequest) -> Settings:
    """Each test has its own service name; the first host is dead."""
    dead, service = free_ports(1)[0], request.node.name.replace("_", "-")[:60].strip("-")
    return Settings(
        service_name=service,
        etcd_hosts=(f"127.0.0.1:{dead}", etcd.url),
        etcd_lease_seconds=LEASE_SECONDS,
        etcd_call_seconds=1,
    )


class Worker:
    """Something that listens, as far as others can tell."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def listening(self) -> int:
        return self.port


@contextmanager
def background(*runs: Callable[[], Awaitable[None]]) -> Iterator[list["asyncio.Task[None]"]]:
    tasks = [asyncio.ensure_future(run()) for run in runs]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def running(*runs: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    with background(*runs) as tasks:
        yield
    await asyncio.gather(*tasks, return_exceptions=True)


async def entries(settings: Settings) -> dict[str, bytes]:
    etcd = Etcd(settings)
    try:
        return (await etcd.read(f"/services/{settings.service_name}/"))[1]
    finally:
        await etcd.close()


async def test_a_registered_worker_is_found_past_a_dead_host(settings: Settings) -> None:
    worker, watch = Registration(settings, Worker(5001)), Watch(settings, settings.service_name)
    async with running(worker.run, watch.run):
        await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
        assert await entries(settings) == {
            f"/services/{settings.service_name}/127.0.0.1:5001": b'{"host":"127.0.0.1","port":5001,"protocol":"grpc"}'
        }


async def test_workers_that_come_and_leave_are_followed(settings: Settings) -> None:
    one, two = Registration(settings, Worker(5001)), Registration(settings, Worker(5002))
    watch = Watch(settings, settings.service_name)
    async with running(one.run, two.run, watch.run):
        await eventually(lambda: watch.current() == ("127.0.0.1:5001", "127.0.0.1:5002"))
        async with asyncio.timeout(LEASE_SECONDS / 2):  # at once, not when the lease ends
            await one.withdraw()
            await eventually(lambda: watch.current() == ("127.0.0.1:5002",))
        await two.withdraw()
        await eventually(lambda: watch.current() == ())


async def test_the_instances_are_the_same_object_until_they_change(settings: Settings) -> None:
    worker, watch = Registration(settings, Worker(5001)), Watch(settings, settings.service_name)
    async with running(worker.run, watch.run):
        await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
        assert watch.current() is watch.current()


async def test_a_worker_that_dies_is_gone_when_its_lease_ends(settings: Settings) -> None:
    worker, watch = Registration(settings, Worker(5001)), Watch(settings, settings.service_name)
    async with running(watch.run):
        async with running(worker.run):
            await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
        await eventually(lambda: watch.current() == (), seconds=LEASE_SECONDS * 3)


async def test_a_living_worker_outlasts_its_lease(settings: Settings) -> None:
    worker, watch = Registration(settings, Worker(5001)), Watch(settings, settings.service_name)
    async with running(worker.run, watch.run):
        await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
        loop = asyncio.get_running_loop()
        until = loop.time() + LEASE_SECONDS * 2.5
        while loop.time() < until:  # it must hold at every moment of this time
            assert await entries(settings)
            await asyncio.sleep(0.1)


async def test_a_lost_lease_is_taken_anew(settings: Settings) -> None:
    worker, watch = Registration(settings, Worker(5001)), Watch(settings, settings.service_name)
    async with running(worker.run, watch.run):
        await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
        etcd = Etcd(settings)
        await etcd.revoke(worker._lease)
        await etcd.close()
        await eventually(lambda: watch.current() == ())
        await eventually(lambda: watch.current() == ("127.0.0.1:5001",))


async def test_an_entry_that_is_none_of_ours_is_passed_over(settings: Settings) -> None:
    worker, watch, etcd = Registration(settings, Worker(5001)), Watch(settings, settings.service_name), Etcd(settings)
    await etcd.put(f"/services/{settings.service_name}/junk", b"junk", await etcd.grant(LEASE_SECONDS * 5))
    await etcd.close()
    async with running(worker.run, watch.run):
        await eventually(lambda: watch.current() == ("127.0.0.1:5001",))


async def test_while_etcd_is_away_the_known_stay_and_after_it_changes_are_seen(tmp_path: Path) -> None:
    ports = free_ports(2)
    etcd = await start_etcd(tmp_path, *ports)
    settings = Settings(
        service_name=SERVICE, etcd_hosts=(etcd.url,), etcd_lease_seconds=LEASE_SECONDS, etcd_call_seconds=1
    )
    one, two, watch = (
        Registration(settings, Worker(5001)),
        Registration(settings, Worker(5002)),
        Watch(settings, SERVICE),
    )
    try:
        async with running(one.run, watch.run):
            await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
            etcd.child.kill()
            await asyncio.sleep(0.2)
            assert watch.current() == ("127.0.0.1:5001",)
            etcd = await start_etcd(tmp_path, *ports)
            async with running(two.run):
                both = ("127.0.0.1:5001", "127.0.0.1:5002")
                await eventually(lambda: watch.current() == both, seconds=10)
    finally:
        await etcd.stop()


async def test_an_etcd_that_lost_its_data_makes_nobody_vanish(tmp_path: Path) -> None:
    ports = free_ports(2)
    etcd = await start_etcd(tmp_path / "first", *ports)
    settings = Settings(
        service_name=SERVICE, etcd_hosts=(etcd.url,), etcd_lease_seconds=LEASE_SECONDS, etcd_call_seconds=1
    )
    worker, watch, seen = Registration(settings, Worker(5001)), Watch(settings, SERVICE), set[tuple[str, ...]]()
    try:
        async with running(worker.run, watch.run):
            await eventually(lambda: watch.current() == ("127.0.0.1:5001",))
            etcd.child.kill()
            await etcd.stop()
            etcd = await start_etcd(tmp_path / "second", *ports)

            async def registered_anew() -> bool:
                seen.add(watch.current())
                return bool(await entries(settings))

            await eventually(registered_anew, seconds=10)
            until = asyncio.get_running_loop().time() + LEASE_SECONDS * 1.5
            while asyncio.get_running_loop().time() < until:
                seen.add(watch.current())
                await asyncio.sleep(0.02)
            assert seen == {("127.0.0.1:5001",)}
    finally:
        await etcd.stop()


class Process:
    """Takes down what a process is told to run."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.drains = 0
        self.probes: dict[str, Callable[[], Awaitable[bool]]] = {}

    def background(self, name: str, run: Callable[[], Awaitable[object]]) -> None:
        self.names.append(name)

    def on_drain(self, run: Callable[[], Awaitable[object]]) -> None:
        self.drains += 1

    def watch(self, dependency: str, probe: Callable[[], Awaitable[bool]]) -> None:
        self.probes[dependency] = probe


def test_without_etcd_hosts_the_settings_addresses_are_used_and_nothing_is_announced() -> None:
    process, settings = Process(), Settings()
    found = find(settings, SERVICE, ["10.0.0.1:50051"], process)
    announce(settings, Worker(5001), process)
    assert found.current() == ("10.0.0.1:50051",)
    assert (process.names, process.drains) == ([], 0)


async def test_with_etcd_hosts_both_sides_run_for_the_life_of_the_process() -> None:
    process, settings = Process(), Settings(etcd_hosts=("127.0.0.1:1",))
    find(settings, SERVICE, [], process)
    announce(settings, Worker(5001), process)
    assert (process.names, process.drains) == ([f"watch {SERVICE}", "registration"], 1)
    assert not await process.probes["etcd"]()


async def test_an_etcd_that_answers_is_up(settings: Settings) -> None:
    process = Process()
    find(settings, SERVICE, [], process)
    assert await process.probes["etcd"]()
