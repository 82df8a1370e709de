"""Runs a process: telemetry, logs, the operations port, signals, background tasks, and an orderly end.

The order of the end: not ready (and whatever `on_drain` does), the public ports drain, the background tasks end one by
one in the order they were added (data flows from the earlier to the later), resources close, the operations port last.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from infra import logs, sentry, telemetry, vitals
from infra.http_server import HttpServer
from infra.operations import Operations
from infra.settings import Settings
from infra.telemetry.tracing import checkout_version

T = TypeVar("T")
Run = Callable[[], Awaitable[object]]

log = logs.get_logger(__name__)

WATCHDOG_SECONDS = 1.5  # after the drain's limit, when even cutting off hangs
CUT_SECONDS = 0.5
SECOND_SIGINT_EXIT_CODE = 130


class Server(Protocol):
    """A public port: `start` returns when it answers, `drain` when nothing is in flight any more."""

    async def start(self) -> None: ...
    async def drain(self) -> None: ...


class TaskDied(Exception):
    """A background task ended that never should; the text is its name."""


class Process:
    """The life of a process, as an async context manager; `serve` is its middle."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self._reason: str | None = "starting"
        self._needs: dict[str, Callable[[], bool]] = {}
        self._probes: dict[str, vitals.Probe] = {}
        self._on_drain: list[Run] = []
        self._background: list[asyncio.Task[None]] = []
        self._resources = AsyncExitStack()
        self._died: str | None = None
        self._interrupts = 0
        self._deadline = float("inf")
        self._watchdog: threading.Timer | None = None

    async def __aenter__(self) -> Self:
        logs.configure(self.settings)
        telemetry.start(self.settings)
        sentry.start(self.settings, version=checkout_version())
        self._listen_to_signals()
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._operations = self.http(
            Operations(self.settings.service_name, self.readiness), port=self.settings.operations_port
        )
        try:
            await self._operations.start()
        except BaseException:
            await self._tasks.__aexit__(None, None, None)
            raise
        self._vitals = [
            self._spawn("event loop lag", vitals.measure_loop_lag),
            self._spawn("dependencies", self._watch_dependencies),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._begin_end("failed" if error else "ended")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds_left()):
                await self._end_background()
                await self._resources.aclose()
        for task in self._background:
            task.cancel()
        await self._operations.drain(notice_seconds=0)
        for task in self._vitals:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        log.info("process.ended", died=self._died)
        await asyncio.to_thread(telemetry.shutdown, min(self.settings.telemetry_shutdown_seconds, self._seconds_left()))
        await asyncio.to_thread(sentry.flush)
        self._forget_signals()
        if self._died is not None and error is None:
            raise TaskDied(self._died)

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Open a resource that closes when the process has drained, the last one first."""
        return await self._resources.enter_async_context(resource)

    def background(self, name: str, run: Run) -> None:
        """Run a task for the life of the process. If it ends or raises, the process ends, by this name.

        At the end it is cancelled and awaited; a task that holds work takes the cancel as "finish what you have".
        """
        self._background.append(self._spawn(name, run))

    def needs(self, dependency: str, is_ready: Callable[[], bool]) -> None:
        """The process is not ready while `is_ready` says no. It is asked often, so it only looks."""
        self._needs[dependency] = is_ready

    def watch(self, dependency: str, probe: vitals.Probe) -> None:
        """Export whether a dependency answers (`promo_dependency_up`); it never changes readiness."""
        self._probes[dependency] = probe

    def on_drain(self, run: Run) -> None:
        """What is done first when the process ends: leave the discovery, say NOT_SERVING."""
        self._on_drain.append(run)

    def http(self, app: Any, *, port: int) -> HttpServer:
        """An HTTP server of this process, for `serve`."""
        return HttpServer(app, self.settings, self._tasks, port=port)

    def readiness(self) -> str | None:
        """Why the process is not ready, or None."""
        if self._reason is not None:
            return self._reason
        return next((f"{name} is away" for name, is_ready in self._needs.items() if not is_ready()), None)

    async def serve(self, *servers: Server) -> None:
        """Start the public ports, stay until a signal or a task's death, drain.

        :raises StartFailed: a port is taken.
        """
        for server in servers:
            await server.start()
        if not self.stopping.is_set():
            self._reason = None
        log.info("process.started", operations_port=self._operations.port)
        await self.stopping.wait()
        self._begin_end("stopped")
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._drain(servers)
        except TimeoutError:
            log.warning("process.cut_off", drain_seconds=self.settings.drain_seconds)

    async def _drain(self, servers: tuple[Server, ...]) -> None:
        for run in self._on_drain:
            with contextlib.suppress(Exception):  # leaving politely is a courtesy: leases and probes notice anyway
                await run()
        async with asyncio.TaskGroup() as drains:
            for server in servers:
                drains.create_task(server.drain())
        await self._end_background()

    async def _end_background(self) -> None:
        while self._background:
            task = self._background[0]
            task.cancel()
            await asyncio.wait({task})
            self._background.pop(0)

    def _spawn(self, name: str, run: Run) -> asyncio.Task[None]:
        return self._tasks.create_task(self._guard(name, run), name=name)

    async def _guard(self, name: str, run: Run) -> None:
        """A task that ends before the process does takes it down by name."""
        try:
            await run()
        except Exception as error:
            log.exception("task.died", task=name)
            sentry.capture(error, task=name)
        else:
            if not self.stopping.is_set():
                log.error("task.ended", task=name)
        if not self.stopping.is_set():
            self._died = name
            self.stopping.set()

    async def _watch_dependencies(self) -> None:
        await vitals.watch_dependencies(self._probes, self._needs, self.settings.readiness_every_seconds)

    def _begin_end(self, why: str) -> None:
        """From now on: not ready, and a limit on everything that follows."""
        self.stopping.set()
        self._reason = "draining"
        if self._watchdog is not None:
            return
        log.info("process.draining", why=self._died or why)
        self._deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
        self._watchdog = threading.Timer(self.settings.drain_seconds + WATCHDOG_SECONDS, os._exit, (1,))
        self._watchdog.daemon = True
        self._watchdog.start()

    def _seconds_left(self) -> float:
        return max(CUT_SECONDS, self._deadline - asyncio.get_running_loop().time())

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _forget_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:  # somebody is in a hurry
                os._exit(SECOND_SIGINT_EXIT_CODE)
        self.stopping.set()
