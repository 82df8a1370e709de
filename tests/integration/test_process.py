"""The life of a process, from its command line to its last port."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx2
import orjson
import pytest

from infra.local.ports import free_ports
from tests.fixtures.waiting import eventually

Running = Callable[..., AbstractAsyncContextManager["Child"]]


class Child:
    """A little service as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, operations_port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.operations = f"http://127.0.0.1:{operations_port}"

    async def ready(self) -> int | None:
        """The status of /readyz; None while nobody answers."""
        try:
            async with httpx2.AsyncClient() as client:
                return (await client.get(f"{self.operations}/readyz")).status_code
        except httpx2.TransportError:
            return None

    async def is_ready(self) -> bool:
        return await self.ready() == 200

    async def end(self) -> tuple[int, list[str], list[dict[str, object]]]:
        """Exit code, words of standard error, log lines."""
        out, err = await asyncio.wait_for(self.process.communicate(), 15)
        assert self.process.returncode is not None
        return self.process.returncode, err.decode().splitlines(), [orjson.loads(line) for line in out.splitlines()]


@pytest.fixture
def running(tmp_path: Path, repository: Path) -> Running:
    @asynccontextmanager
    async def run(fault: str = "", **settings: str) -> AsyncIterator[Child]:
        port, operations_port = free_ports(2)
        environ = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(repository), "PYTHONWARNINGS": "error", "LITTLE_FAULT": fault,
            "PORT": str(port), "OPERATIONS_PORT": str(operations_port), "DRAIN_NOTICE_SECONDS": "0.2",
            "TRACING_ENABLED": "false", **settings,
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fixtures.little_service", "serve", cwd=tmp_path, env=environ,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield Child(process, int(environ["PORT"]), int(environ["OPERATIONS_PORT"]))
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    return run


async def test_the_end_is_in_order(running: Running) -> None:
    async with running() as child, httpx2.AsyncClient() as client:
        await eventually(child.is_ready)
        slow = asyncio.create_task(client.get(f"{child.url}/slow"))
        assert child.process.stderr is not None
        assert await child.process.stderr.readline() == b"asked\n"
        child.process.send_signal(signal.SIGTERM)
        assert await child.process.stderr.readline() == b"leave\n"
        assert await child.ready() == 503
        assert (await client.get(f"{child.url}/quick")).headers["connection"] == "close"
        assert (await slow).status_code == 200
        code, words, lines = await child.end()
    assert code == 0
    assert words == ["batches", "relay", "resource"]
    assert [line["event"] for line in lines if line["source"] == "infra.run"] == [
        "process.started", "process.draining", "process.ended",
    ]  # fmt: skip


async def test_a_background_task_that_dies_ends_the_process_by_its_name(running: Running) -> None:
    async with running("death") as child:
        code, words, lines = await child.end()
    assert code == 1
    assert words == ["leave", "batches", "resource", "gateway: died: relay"]
    [died] = [line for line in lines if line["event"] == "task.died"]
    assert died["task"] == "relay"
    assert died["exception.message"] == "boom"


async def test_a_drain_that_hangs_is_cut_off(running: Running) -> None:
    async with running("deaf", DRAIN_SECONDS="0.7") as child:
        await eventually(child.is_ready)
        child.process.send_signal(signal.SIGTERM)
        code, _, _ = await child.end()
    assert code == 1


async def test_a_second_interrupt_ends_at_once(running: Running) -> None:
    async with running("deaf") as child:
        await eventually(child.is_ready)
        child.process.send_signal(signal.SIGINT)
        assert child.process.stderr is not None
        while await child.process.stderr.readline() != b"deaf\n":
            pass
        child.process.send_signal(signal.SIGINT)
        code, _, _ = await asyncio.wait_for(child.end(), 1)
    assert code == 130


async def test_a_taken_port_is_one_clear_line(running: Running) -> None:
    async with running() as first:
        await eventually(first.is_ready)
        port = first.url.rpartition(":")[2]
        async with running(PORT=port) as second:
            code, words, _ = await second.end()
    assert code == 1
    assert words[-1] == f"gateway: cannot start: port {port} on 127.0.0.1 is taken"


async def test_a_malformed_setting_stops_the_start(running: Running) -> None:
    async with running(DRAIN_SECONDS="soon") as child:
        code, words, lines = await child.end()
    assert (code, lines) == (2, [])
    assert len(words) == 1
    assert words[0].startswith("gateway: setting DRAIN_SECONDS: ")


async def test_alive_and_ready_are_two_questions(running: Running) -> None:
    async with running("no postgres") as child, httpx2.AsyncClient() as client:
        await eventually(lambda: _answers(client, f"{child.operations}/healthz"))
        ready = await client.get(f"{child.operations}/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"] == "postgres is away"
        metrics = await client.get(f"{child.operations}/metrics")
        assert metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert 'promo_dependency_up{dependency="postgres"} 0.0' in metrics.text
        assert (await client.get(f"{child.operations}/other")).status_code == 404
        assert (await client.post(f"{child.operations}/metrics")).status_code == 405


async def _answers(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx2.TransportError:
        return False


async def test_the_start_line_says_that_tracing_is_off(running: Running) -> None:
    async with running() as child:
        await eventually(child.is_ready)
        child.process.send_signal(signal.SIGTERM)
        _, _, lines = await child.end()
    assert lines[0]["event"] == "tracing.disabled"
    assert lines[0]["message"] == "[TracingService] Tracing disabled for service: little-service"


async def test_a_dead_backend_neither_stops_nor_slows_and_what_is_lost_is_counted(running: Running) -> None:
    endpoint = f"localhost:{free_ports(1)[0]}"
    settings = {
        "TRACING_ENABLED": "true", "JAEGER_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_BSP_EXPORT_TIMEOUT": "500", "TELEMETRY_SHUTDOWN_SECONDS": "1",
    }  # fmt: skip
    async with running("spans", **settings) as child, httpx2.AsyncClient() as client:
        await eventually(child.is_ready)
        found = (await client.get(f"{child.operations}/metrics")).text
        [dropped] = [line for line in found.splitlines() if line.startswith("promo_telemetry_spans_dropped_total ")]
        assert float(dropped.split()[1]) > 10_000
        child.process.send_signal(signal.SIGTERM)
        code, _, lines = await child.end()
    assert code == 0
    assert lines[0]["message"] == (
        f"[TracingService] Tracing initialized for service: little-service, endpoint: {endpoint}"
    )
    assert len([line for line in lines if str(line["source"]).startswith("opentelemetry")]) <= 3
