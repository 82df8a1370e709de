"""The operations port: metrics, alive, ready. It is the last thing a process closes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

import orjson

from infra.telemetry import metrics

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"


class Operations:
    """An ASGI application: `/metrics` (OpenMetrics), `/healthz` (alive, whatever the dependencies do), `/readyz`."""

    def __init__(self, service: str, readiness: Callable[[], str | None]) -> None:
        """`readiness` says why the process is not ready, None when it is."""
        self._service = service
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        routes: Mapping[str, Callable[[], Awaitable[tuple[int, str, bytes]]]] = {
            "/metrics": self._metrics,
            "/healthz": self._alive,
            "/readyz": self._ready,
        }
        route = routes.get(scope["path"])
        if route is None:
            status, kind, body = 404, JSON, orjson.dumps({"status": "not found", "paths": list(routes)})
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, JSON, orjson.dumps({"status": "method not allowed"})
        else:
            status, kind, body = await route()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _metrics(self) -> tuple[int, str, bytes]:
        # In a thread: printing some thousand series would hold the loop for tens of milliseconds.
        return 200, metrics.CONTENT_TYPE, await asyncio.to_thread(metrics.exposition)

    async def _alive(self) -> tuple[int, str, bytes]:
        return 200, JSON, orjson.dumps({"status": "ok", "service": self._service})

    async def _ready(self) -> tuple[int, str, bytes]:
        reason = self._readiness()
        if reason is None:
            return 200, JSON, orjson.dumps({"status": "ready", "service": self._service})
        return 503, JSON, orjson.dumps({"status": "not ready", "service": self._service, "reason": reason})
