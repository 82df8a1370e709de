"""How one call, or one item of a batch call, is served: its span, its outcome, its metric and its one log line."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, ParamSpec, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.trace import NonRecordingSpan
from prometheus_client import Histogram

from infra import logs, sentry, telemetry
from infra.errors import DeadlineExceeded, Kind, Refused, ValidationFailed
from infra.rpc import call as calls
from infra.rpc.status import CROSSINGS, internal, to_status
from infra.settings import Settings
from infra.telemetry import instruments, names
from infra.telemetry.metrics import observe

MessageT = TypeVar("MessageT", bound=Message)
P = ParamSpec("P")

OK = grpc.StatusCode.OK
BUG = grpc.StatusCode.INTERNAL
REQUEST_ID = re.compile(r"[!-~]{1,128}")
OPERATIONAL = frozenset({Kind.OVERLOADED, Kind.UNAVAILABLE, Kind.DEADLINE})

log = logs.get_logger(__name__)


class Method:
    """A method's constant facts and its metric's children, looked up once. `name` is `package.Service/Method`.

    Without `own_spans` the stock instrumentation makes them.
    """

    def __init__(self, name: str, *, own_spans: bool = True) -> None:
        self.name = name
        self._own_spans = own_spans
        self._attributes = {
            names.RPC_SYSTEM_NAME: "grpc",
            names.RPC_METHOD: name,
            names.OPERATION: f"grpc.{name.rpartition('.')[2]}",
        }
        self._seconds: dict[tuple[str, str], Histogram] = {}

    def open(self, headers: Mapping[str, str | bytes]) -> telemetry.Span:
        """The span of a call that came with these headers."""
        if not self._own_spans:
            return NonRecordingSpan(telemetry.current_span().get_span_context())
        context = telemetry.extract(headers)
        return telemetry.start_span(self.name, telemetry.SpanKind.SERVER, context=context, attributes=self._attributes)

    def took(self, seconds: float, code: str, error_type: str, span: telemetry.Span) -> None:
        """Count one call."""
        child = self._seconds.get((code, error_type))
        if child is None:
            child = instruments.RPC_SERVER_SECONDS.labels(self.name, code, error_type)
            self._seconds[code, error_type] = child
        observe(child, seconds, span)


@dataclass(frozen=True, slots=True)
class Limits:
    """How a deadline is trimmed, in seconds."""

    margin: float
    least: float
    most: float

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(
            settings.rpc_deadline_margin_ms / 1000,
            settings.rpc_deadline_min_ms / 1000,
            settings.rpc_deadline_seconds_max,
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """What travels around a request. `remaining` is the caller's time left in seconds; None: it set no deadline."""

    headers: Mapping[str, str | bytes]
    request_id: str
    remaining: float | None


@dataclass(slots=True)
class Served(Generic[MessageT]):
    """The outcome of one request: a message, or the status it ended with."""

    message: MessageT | None = None
    status: Status | None = None
    replayed: bool = False


@dataclass(slots=True)
class _Ending:
    """What is told of the outcome."""

    code: grpc.StatusCode = OK
    outcome: str = "ok"
    refused: Refused | None = None
    bug: Exception | None = None
    error_type: str = ""


async def serve(
    method: Method,
    request: Message,
    envelope: Envelope,
    limits: Limits,
    handle: Callable[P, Awaitable[MessageT]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Served[MessageT]:
    """Run `handle(*args)` as this request, in a task of its own. Only a cancel leaves it as an exception."""
    now = asyncio.get_running_loop().time
    started = perf_counter()  # uvloop's clock stands still for a millisecond
    call = calls.Call(_request_id(envelope.request_id), now() + _allowed(envelope.remaining, limits))
    calls.enter(call)
    logs.request_id.set(call.request_id)
    facts, span = logs.begin_facts(), method.open(envelope.headers)
    served, ending = Served[MessageT](), _Ending()
    with telemetry.in_span(span, end=True):
        try:
            _check_time(envelope.remaining, call, limits)
            served.message = await handle(*args, **kwargs)
            served.replayed = call.replayed
        except Refused as refused:
            served.status = to_status(refused)
            ending = _refusal(refused)
        except asyncio.CancelledError:
            ending = _cancelled(late=now() >= call.deadline)
            raise
        except Exception as error:
            served.status = internal()
            ending = _Ending(BUG, "error", bug=error, error_type=type(error).__qualname__)
        finally:
            seconds = perf_counter() - started
            _tell(method, call, span, ending, seconds)
            _log(method, request, ending, seconds, {"replayed": call.replayed, **facts})
    return served


def _request_id(given: str) -> str:
    return given if REQUEST_ID.fullmatch(given) else uuid4().hex


def _allowed(remaining: float | None, limits: Limits) -> float:
    return 0.0 if remaining is None else min(remaining, limits.most) - limits.margin


def _check_time(remaining: float | None, call: calls.Call, limits: Limits) -> None:
    if remaining is None:
        raise ValidationFailed({"deadline": "must be set by the caller"})
    if call.remaining() < limits.least:
        raise DeadlineExceeded


def _refusal(refused: Refused) -> _Ending:
    crossing = CROSSINGS[refused.kind]
    fault = crossing.code.name if crossing.server_fault else ""
    return _Ending(crossing.code, "error" if fault else "refused", refused=refused, error_type=fault)


def _cancelled(*, late: bool) -> _Ending:
    if late:
        late_code = grpc.StatusCode.DEADLINE_EXCEEDED
        return _Ending(late_code, "error", refused=DeadlineExceeded(), error_type=late_code.name)
    return _Ending(grpc.StatusCode.CANCELLED, "cancelled")


def _tell(method: Method, call: calls.Call, span: telemetry.Span, ending: _Ending, seconds: float) -> None:
    code = ending.code.name
    method.took(seconds, code, ending.error_type, span)
    if span.is_recording():
        span.set_attributes({names.RPC_RESPONSE_STATUS_CODE: code, names.OUTCOME: ending.outcome})
        if call.replayed:
            span.set_attribute(names.REPLAYED, True)
        error = ending.refused or ending.bug
        if error is not None:
            telemetry.tell(span, error)
    if ending.bug is not None:
        sentry.capture(ending.bug, method=method.name)


def _log(method: Method, request: Message, ending: _Ending, seconds: float, facts: dict[str, object]) -> None:
    wide = {
        "method": method.name,
        "status": ending.code.name,
        "outcome": ending.outcome,
        "duration_ms": round(seconds * 1000, 2),
        "user_id": getattr(getattr(request, "caller", None), "user_id", None),
        "command_id": getattr(request, "command_id", None),
        **facts,
    }
    if ending.bug is not None:
        log.error("request.completed", exc_info=ending.bug, **wide)
    elif ending.refused is None:
        log.info("request.completed", **wide)
    elif ending.refused.kind in OPERATIONAL:
        cause = ending.refused.__cause__
        log.warning("request.completed", refusal_code=ending.refused.code, cause=cause and repr(cause), **wide)
    else:
        log.info("request.completed", refusal_code=ending.refused.code, **wide)
