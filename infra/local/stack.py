"""The parts of the platform, from the servers to the four processes, started side by side."""

import asyncio
import functools
import hashlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import asyncpg
import httpx2

from infra.local.child import Child, run_once, spawn, until_ready
from infra.local.failures import StartFailed
from infra.local.plan import SECRETS, Instance, Plan, database_url, environment
from infra.local.platform import OPERATIONS, PROCESSES, Process, topic_partitions
from infra.local.servers import Server, create_topics, start_kafka, start_postgres, start_valkey
from infra.local.state import ROOT, Run, Running, State, started
from infra.local.supervisor import Supervisor

# Ended from the highest down: a process still needs its servers while it drains, and the sink takes its last spans.
POSTGRES, VALKEY, KAFKA, SINK, PROCESS = range(5)
SERVERS = ("postgres", "valkey", "kafka", "sink")
READY_SECONDS = 60.0
MIGRATE_SECONDS = 60.0
TOPICS_SECONDS = 60.0
CONNECT_SECONDS = 5.0
REPLACED_BY = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL", "kafka": "KAFKA_BROKERS"}

Say = Callable[[str], None]


class Stack:
    """One run of the platform. `inherited` is the environment of the processes, before what they are told."""

    def __init__(self, plan: Plan, state: State, say: Say, *, inherited: Mapping[str, str] = os.environ) -> None:
        self._plan = plan
        self._inherited = inherited
        self._state = state
        self._say = say
        self._urls = {
            # processes are told of a broker that is still starting; Postgres' password is known when it runs
            "valkey": plan.given.get("REDIS_URL", f"redis://127.0.0.1:{plan.server_ports['valkey']}/0"),
            "kafka": plan.given.get("KAFKA_BROKERS", f"127.0.0.1:{plan.server_ports['kafka']}"),
            "postgres": plan.given.get("DATABASE_URL", ""),
        }
        self._secrets = {name: plan.given.get(name) or state.secret(name) for name in SECRETS}
        self._topics = asyncio.Event()
        self.supervisor = Supervisor(say, self.write_down)

    async def start(self) -> None:
        """Start everything; returns when every process is ready.

        :raises StartFailed: something did not start, in one line.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sink())
                tasks.create_task(self._kafka())
                valkey = tasks.create_task(self._valkey())
                await self._postgres()
                await valkey
                for instance in self._plan.instances:
                    if instance.number == 1:
                        tasks.create_task(self._processes(instance.process))
        except BaseExceptionGroup as failures:
            told, bugs = failures.split(StartFailed)
            if told is None or bugs is not None:
                raise
            raise _first(told) from None

    def write_down(self, *, ready: bool = False) -> None:
        """Write what runs into the state folder."""
        supervisor = Running("supervisor", os.getpid(), started(os.getpid()), str(self._state.folder / "up.log"))
        order = [*SERVERS, *(instance.name for instance in self._plan.instances)]
        children = [part.child for part in self.supervisor.parts.values()]
        parts = tuple(self._running(child) for child in sorted(children, key=lambda child: order.index(child.name)))
        urls = {"api": f"{self._plan.edge_url}/api/v1", "docs": f"{self._plan.edge_url}/api/docs", **self._urls}
        if self._plan.keeps_traces:
            urls["traces"] = f"http://127.0.0.1:{self._plan.server_ports['query']}"
        elif query := self._plan.given.get("JAEGER_QUERY_URL"):
            urls["traces"] = query
        self._state.write(Run(supervisor, parts, urls, ready))

    async def _sink(self) -> None:
        if not self._plan.keeps_traces:
            return
        ports = self._plan.server_ports
        command = [sys.executable, "-m", "infra.local.sink", str(ports["otlp"]), str(ports["query"])]

        async def start() -> Child:
            child = spawn("sink", command, self._state.folder / "sink.log", cwd=ROOT)
            await until_ready(child, lambda: _get(ports["query"], "/"), (httpx2.HTTPError,), seconds=READY_SECONDS)
            return child

        await self._timed("sink", self.supervisor.start(SINK, start), f"OTLP on localhost:{ports['otlp']}")

    async def _postgres(self) -> None:
        folder, port = self._state.folder, self._plan.server_ports["postgres"]
        await self._server("postgres", POSTGRES, lambda: start_postgres(folder, port))
        await _create_databases(self._urls["postgres"], [process.database for process in PROCESSES])

    async def _valkey(self) -> None:
        folder, port = self._state.folder, self._plan.server_ports["valkey"]
        await self._server("valkey", VALKEY, lambda: start_valkey(folder, port))

    async def _kafka(self) -> None:
        folder, ports = self._state.folder, self._plan.server_ports
        await self._server("kafka", KAFKA, lambda: start_kafka(folder, ports["kafka"], ports["kafka-controller"]))
        await create_topics(self._urls["kafka"], topic_partitions())
        self._topics.set()

    async def _server(self, name: str, stage: int, start: Callable[[], Awaitable[Server]]) -> None:
        """Start one server, unless its URL was given."""
        if REPLACED_BY[name] in self._plan.given:
            self._say(f"{name:<12} given as {REPLACED_BY[name]}")
            return

        async def start_child() -> Child:
            server = await start()
            self._urls[name] = server.url
            return server.child

        await self._timed(name, self.supervisor.start(stage, start_child), f"port {self._plan.server_ports[name]}")

    async def _processes(self, process: Process) -> None:
        """Migrate the database of a process, then start its instances."""
        instances = [one for one in self._plan.instances if one.process is process]
        await self._migrate(instances[0])
        if process.consumes:
            await asyncio.wait_for(self._topics.wait(), TOPICS_SECONDS)
        async with asyncio.TaskGroup() as tasks:
            for instance in instances:
                ports = " ".join(f"{setting} {port}" for setting, port in instance.ports.items())
                starting = self.supervisor.start(PROCESS, functools.partial(self._serve, instance))
                tasks.create_task(self._timed(instance.name, starting, ports))

    async def _migrate(self, instance: Instance) -> None:
        """Bring the database to this version, unless it is our own one and these very files were applied before."""
        process = instance.process
        stamp = self._state.folder / f"{process.name}.migrated"
        ours = not {"DATABASE_URL", f"{process.prefix}DATABASE_URL"} & self._plan.given.keys()
        if ours and stamp.exists() and stamp.read_text() == _migrations_digest():
            return
        log = self._state.folder / f"{process.name}-migrate.log"
        command = [sys.executable, "-m", process.name, "migrate"]
        env = self._environment(instance)
        await run_once(f"{process.name} migrate", command, log, env=env, cwd=ROOT, seconds=MIGRATE_SECONDS)
        stamp.write_text(_migrations_digest())

    async def _serve(self, instance: Instance) -> Child:
        log = self._state.folder / f"{instance.name}.log"
        command = [sys.executable, "-m", instance.process.name, "serve"]
        child = spawn(instance.name, command, log, env=self._environment(instance), cwd=ROOT)
        operations = instance.ports[OPERATIONS]
        await until_ready(child, lambda: _get(operations, "/readyz"), (httpx2.HTTPError,), seconds=READY_SECONDS)
        return child

    def _environment(self, instance: Instance) -> dict[str, str]:
        return {**self._inherited, **self._told(instance)}

    def _told(self, instance: Instance) -> dict[str, str]:
        return environment(self._plan, instance, self._urls, self._secrets)

    def _running(self, child: Child) -> Running:
        instance = next((one for one in self._plan.instances if one.name == child.name), None)
        return Running(
            name=child.name,
            pid=child.pid,
            started=started(child.pid),
            log=str(child.log),
            url=instance.address if instance else self._urls.get(child.name, ""),
            service=instance.process.service if instance else "",
            ports=dict(instance.ports) if instance else {},
            environment=self._told(instance) if instance else {},
        )

    async def _timed(self, name: str, starting: Coroutine[Any, Any, None], detail: str) -> None:
        begin = time.monotonic()
        await starting
        self._say(f"{name:<12} ready in {time.monotonic() - begin:4.1f} s   {detail}")


def _migrations_digest() -> str:
    """What all migrations of the checkout are, in short."""
    digest = hashlib.sha256()
    for file in sorted(ROOT.glob("*/sql/migrations/*.sql")):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()


async def _get(port: int, path: str) -> None:
    """Any answer below 500 will do: it is there."""
    async with httpx2.AsyncClient(timeout=CONNECT_SECONDS) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
        if answer.status_code >= 500:
            answer.raise_for_status()


async def _create_databases(server: str, names: list[str]) -> None:
    """Create the databases that are not there yet.

    :raises StartFailed: the server cannot be reached, or refuses.
    """
    try:
        connection = await asyncpg.connect(database_url(server, "postgres"), timeout=CONNECT_SECONDS)
        try:
            there = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
            for name in names:
                if name not in there:
                    await connection.execute(f'CREATE DATABASE "{name}"')  # a name of our own table: no parameter here
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError) as error:
        raise StartFailed(f"postgres: {error}") from error


def _first(failures: BaseExceptionGroup[StartFailed]) -> StartFailed:
    """One of what failed: the rest mostly failed for it."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
