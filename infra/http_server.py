"""An HTTP server among others in one process: it takes no signals, and it drains when it is told to."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from infra.edge import edge
from infra.errors import StartFailed
from infra.settings import Settings

EPHEMERAL = 32_768  # above it a taken port may be somebody's outgoing connection, gone in a moment
RETRY_SECONDS = 0.2
BACKLOG = 2_048


class HttpServer:
    """Serves an ASGI application on one port, from `start` until `drain`."""

    def __init__(self, app: Any, settings: Settings, tasks: asyncio.TaskGroup, *, port: int) -> None:
        """`port` 0 takes a free one; it runs as one of `tasks`."""
        self._settings = settings
        self._tasks = tasks
        self._host = settings.listen_host
        self._wanted = port
        self._uvicorn = _Uvicorn(self._config(app))
        self._socket: socket.socket | None = None
        self._ended = asyncio.Event()

    @property
    def port(self) -> int:
        """The port it listens on, once it was started."""
        assert self._socket is not None, "not started"
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen; returns when requests are answered. :raises StartFailed: the port is taken."""
        self._socket = await self._bind()
        self._tasks.create_task(self._run(), name=f"http {self.port}")
        await self._uvicorn.up.wait()

    async def drain(self, notice_seconds: float | None = None) -> None:
        """Ask clients to close their connections, then take no new ones, finish what is asked, end.

        `notice_seconds` (default: `drain_notice_seconds`) pass between the first and the second.
        """
        self._uvicorn.ask_to_close()
        await asyncio.sleep(self._settings.drain_notice_seconds if notice_seconds is None else notice_seconds)
        self._uvicorn.should_exit = True
        await self._ended.wait()

    async def _run(self) -> None:
        assert self._socket is not None
        try:
            await self._uvicorn.serve(sockets=[self._socket])
        finally:
            self._ended.set()

    def _config(self, app: Any) -> uvicorn.Config:
        settings = self._settings
        return uvicorn.Config(
            app,
            http=edge(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.http_keep_alive_seconds,
            timeout_graceful_shutdown=max(1, int(settings.drain_seconds) - 2),
            limit_concurrency=settings.http_connections_max,
            backlog=BACKLOG,
        )

    async def _bind(self) -> socket.socket:
        ends = asyncio.get_running_loop().time() + self._settings.bind_retry_seconds
        while True:
            try:
                return _listening(self._host, self._wanted)
            except OSError as error:
                again = error.errno == errno.EADDRINUSE and self._wanted >= EPHEMERAL
                if not again or asyncio.get_running_loop().time() > ends:
                    reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
                    raise StartFailed(f"port {self._wanted} on {self._host} {reason}") from error
                await asyncio.sleep(RETRY_SECONDS)


@contextlib.asynccontextmanager
async def serving(app: Any, settings: Settings, *, port: int = 0) -> AsyncIterator[HttpServer]:
    """The application on a port for a block, outside a `run.Process`."""
    async with asyncio.TaskGroup() as tasks:
        server = HttpServer(app, settings, tasks, port=port)
        await server.start()
        try:
            yield server
        finally:
            await server.drain(notice_seconds=0)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which these do not; without it
    # each answer, a head and a body, waits 40 ms for the client's delayed acknowledgement of its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class _Uvicorn(uvicorn.Server):
    """uvicorn that leaves the signals to whoever runs the process and says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    def ask_to_close(self) -> None:
        """From now on each answer says `connection: close`, so that no client sends into a closing connection."""
        closing = (b"connection", b"close")
        self.config.encoded_headers.append(closing)  # uvicorn makes its default headers anew from it each second
        self.server_state.default_headers = [*self.server_state.default_headers, closing]
