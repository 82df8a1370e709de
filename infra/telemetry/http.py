"""The HTTP door's telemetry as pure ASGI: a SERVER span, metrics, the ids every answer carries, one wide log line."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from time import perf_counter
from typing import Any, TypeAlias
from uuid import uuid4

import orjson
from opentelemetry import trace
from prometheus_client import Histogram

from infra import logs, sentry
from infra.settings import Settings
from infra.telemetry import carrier, instruments, metrics, names, spans

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = re.compile(rb"[!-~]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "_OTHER"
RETRY_AFTER_SECONDS = b"1"
LEFT = 499  # the client left before the answer: a status for the metric only
PEERS_KEPT_MAX = 1_024

log = logs.get_logger(__name__)


class HttpTelemetry:
    """The outermost application: everything inside runs in the request's span and with its request id.

    A `traceparent` is believed from `trace_trusted_peers` only; from others it becomes a link of a new trace.
    `quiet_paths` (health) get ids but no span, and a log line at debug. Above `http_requests_max` requests at once the
    rest is refused here, cheaply.
    """

    def __init__(self, app: App, settings: Settings, *, quiet_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._own = settings.instrumentation == "own"
        self._quiet = quiet_paths
        self._trusted = lru_cache(PEERS_KEPT_MAX)(_Trust(settings.trace_trusted_peers))
        self._seconds: dict[tuple[str, str, str, str], Histogram] = {}
        self._active, self._active_max = 0, settings.http_requests_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        self._active += 1
        instruments.HTTP_ACTIVE.set(self._active)
        try:
            with spans.in_span(self._span(scope, request)) as request.span:
                await self._run(request, receive)
        finally:
            self._active -= 1
            instruments.HTTP_ACTIVE.set(self._active)
            request.span.end()

    async def _run(self, request: "_Request", receive: Receive) -> None:
        error: BaseException | None = None
        try:
            if self._active > self._active_max:
                logs.add_facts(refusal_code="UNAVAILABLE")
                await request.refuse(503, "Service Unavailable", "UNAVAILABLE", (b"retry-after", RETRY_AFTER_SECONDS))
            else:
                await self._app(request.scope, receive, request.send)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            raise
        except Exception as bug:
            error = bug
            sentry.capture(bug)
            if not request.status:
                await request.refuse(500, "Internal Server Error", "INTERNAL")
        finally:
            self._tell(request, error)

    def _span(self, scope: Scope, request: "_Request") -> trace.Span:
        """The request's span; its attributes wait for the decision whether it is recorded."""
        found = carrier.extract(request.headers)
        foreign = carrier.span_context(found)
        trusted = foreign.is_valid and self._trusted(request.peer)
        if not self._own:
            if not trusted:  # the stock package believes everybody
                scope["headers"] = [header for header in scope["headers"] if header[0] != b"traceparent"]
            return trace.INVALID_SPAN
        if scope["path"] in self._quiet:
            return trace.NonRecordingSpan(foreign if trusted else spans.unsampled())
        span = spans.start_span(
            request.method if request.method in METHODS else "HTTP",
            trace.SpanKind.SERVER,
            context=found if trusted else carrier.empty_context(),
            links=[spans.link(foreign, "foreign")] if foreign.is_valid and not trusted else None,
        )
        if span.is_recording():
            span.set_attributes(request.attributes())
        return span

    def _tell(self, request: "_Request", error: BaseException | None) -> None:
        seconds = perf_counter() - request.started
        status = request.status or LEFT
        error_type = type(error).__qualname__ if isinstance(error, Exception) else str(status) if status >= 500 else ""
        route = getattr(request.scope.get("route"), "path", "")
        method = request.method if request.method in METHODS else OTHER
        key = (method, route, str(status), error_type)
        child = self._seconds.get(key)
        if child is None:
            child = self._seconds[key] = instruments.HTTP_REQUEST_SECONDS.labels(*key)
        metrics.observe(child, seconds, request.span)
        outcome = _outcome(status, error)
        if request.span.is_recording():
            request.describe(route, outcome, error_type)
            if error is not None:
                spans.tell(request.span, error)
        level = "debug" if request.scope["path"] in self._quiet else _level(status)
        facts = {
            **request.facts,
            "method": request.method,
            "route": route,
            "status": status,
            "outcome": outcome,
            "duration_ms": round(seconds * 1000, 2),
        }
        getattr(log, level)("request.completed", exc_info=error if isinstance(error, Exception) else None, **facts)


class _Request:
    """One request: what it brought, and what was answered so far."""

    __slots__ = ("_forward", "facts", "headers", "id", "method", "peer", "scope", "span", "started", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self.started = perf_counter()
        self.scope = scope
        self.method: str = scope["method"]
        self.peer: str = scope["client"][0] if scope.get("client") else ""
        self.headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", b"")
        self.id = given.decode() if REQUEST_ID.fullmatch(given) else uuid4().hex
        self.facts = logs.begin_facts()
        self.span: trace.Span = trace.INVALID_SPAN
        self.status = 0
        self._forward = send
        logs.request_id.set(self.id)

    async def send(self, message: Message) -> None:
        """What the application answers, with the ids of the request."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # The innermost span of the door: with stock instrumentation it is not ours.
            context = trace.get_current_span().get_span_context()
            ids = [(b"x-request-id", self.id.encode())]
            if context.is_valid:
                ids.append((b"traceparent", carrier.traceparent(context).encode()))
            message = {**message, "headers": [*message.get("headers", ()), *ids]}
        await self._forward(message)

    async def refuse(self, status: int, title: str, code: str, *headers: tuple[bytes, bytes]) -> None:
        """The answer where nobody inside gives one."""
        body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "code": code})
        described = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": [*described, *headers]})
        await self._forward({"type": "http.response.body", "body": body})

    def attributes(self) -> dict[str, str | int]:
        """What is known when the request comes."""
        server = self.scope.get("server") or ("", 0)
        known: dict[str, str | int] = {
            names.HTTP_REQUEST_METHOD: self.method if self.method in METHODS else OTHER,
            names.URL_PATH: self.scope["path"],
            names.URL_SCHEME: self.scope["scheme"],
            names.SERVER_ADDRESS: server[0],
            names.SERVER_PORT: server[1] or 0,
            names.CLIENT_ADDRESS: self.peer,
            names.REQUEST_ID: self.id,
        }
        agent = self.headers.get("user-agent")
        if agent:
            known[names.USER_AGENT_ORIGINAL] = agent.decode("latin-1")
        return known

    def describe(self, route: str, outcome: str, error_type: str) -> None:
        """What is known when it was answered."""
        span, facts = self.span, self.facts
        if route:
            name = f"{self.method} {route}"
            span.update_name(name)
            span.set_attributes({names.HTTP_ROUTE: route, names.OPERATION: f"HTTP {name}"})
        span.set_attribute(names.OUTCOME, outcome)
        if self.status:
            span.set_attribute(names.HTTP_RESPONSE_STATUS_CODE, self.status)
        if error_type:
            span.set_attribute(names.ERROR_TYPE, error_type)
            span.set_status(trace.StatusCode.ERROR)
        for fact, attribute in (("refusal_code", names.REFUSAL_CODE), ("command_id", names.COMMAND_ID)):
            if facts.get(fact):
                span.set_attribute(attribute, str(facts[fact]))
        if facts.get("user_id"):
            span.set_attributes(names.user(str(facts["user_id"])))


class _Trust:
    """Whose trace context is believed: peers in these networks."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._networks = [ip_network(network, strict=False) for network in networks]

    def __call__(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _outcome(status: int, error: BaseException | None) -> str:
    if isinstance(error, Exception) or (status >= 500 and error is None):
        return "error"
    if status == LEFT or error is not None:
        return "cancelled"
    return "refused" if status >= 400 else "ok"


def _level(status: int) -> str:
    if status == 500:
        return "error"
    return "warning" if status > 500 else "info"
