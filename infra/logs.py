"""Structured logs: one JSON object a line, with the ids of the active span and without secrets.

Events have constant dotted names, facts are fields: `log.info("coupon.issued", coupon_id=7)`. Loggers of libraries
(grpc, aiokafka, uvicorn) come out the same way.
"""

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, BinaryIO, cast

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from infra.settings import Settings
from infra.telemetry import instruments, redact

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_facts: ContextVar[dict[str, object] | None] = ContextVar("facts", default=None)

# Libraries that repeat themselves while something is away: one line per template in so many seconds.
REPEATS_SECONDS: Mapping[str, float] = {"aiokafka": 10.0, "opentelemetry": 60.0, "grpc": 10.0, "asyncio": 1.0}
REPEATS_KEPT_MAX = 1_000
QUIET = {"uvicorn.access": logging.ERROR, "uvicorn.error": logging.WARNING, "grpc._cython.cygrpc": logging.CRITICAL}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger; `name` goes into each line as `source`."""
    return cast(FilteringBoundLogger, structlog.get_logger(source=name))


def begin_facts() -> dict[str, object]:
    """The facts of a new request, which its wide line will carry; for doors."""
    facts: dict[str, object] = {}
    _facts.set(facts)
    return facts


def add_facts(**facts: object) -> None:
    """Say more in the request's wide line: user_id, command_id, refusal_code..."""
    current = _facts.get()
    if current is not None:
        current.update(facts)


def configure(settings: Settings, *, stream: BinaryIO | None = None) -> None:
    """Send all logs of the process to `stream` (default: standard output), as `log_format` says."""
    sink = structlog.BytesLogger(stream or sys.stdout.buffer)
    level = logging.getLevelNamesMapping()[settings.log_level]
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _Facts(settings.service_name),
        _render_exception,
        _redact,
    ]
    renderer = _to_json if settings.log_format == "json" else _to_console
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Factory(sink),
        cache_logger_on_first_use=True,
    )
    handler = _Foreign(sink, [*shared, renderer])
    handler.addFilter(_Repeats(REPEATS_SECONDS))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, level))


class _Factory:
    """Gives every logger the same sink."""

    def __init__(self, sink: structlog.BytesLogger) -> None:
        self._sink = sink

    def __call__(self, *args: Any) -> structlog.BytesLogger:
        return self._sink


class _Facts:
    """Adds what is true of every line: service, request id, ids of the active span; counts it."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._counts = {level: instruments.LOG_LINES.labels(level) for level in ("debug", "info", "warning", "error")}

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["service"] = self._service
        known = request_id.get()
        if known is not None:
            event.setdefault("request_id", known)
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event.setdefault("trace_id", format(context.trace_id, "032x"))
            event.setdefault("span_id", format(context.span_id, "016x"))
        count = self._counts.get(event.get("level", ""))
        if count is not None:
            count.inc()
        return event


def _render_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """`exc_info` becomes exception.type, .message and .stacktrace."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()[1]
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception.type"] = type(error).__qualname__
        event["exception.message"] = str(error)
        event["exception.stacktrace"] = "".join(traceback.format_exception(error))[-redact.TEXT_MAX :]
    return event


def _redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return redact.mapping(event)


def _to_json(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS)


def _to_console(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    """For people: time, level, event, message, trace, then the rest as key=value."""
    stack = event.pop("exception.stacktrace", None)
    head = [event.pop("time", ""), event.pop("level", "").upper().ljust(7), str(event.pop("event", ""))]
    message = event.pop("message", None)
    if message:
        head.append(str(message))
    trace_id = event.pop("trace_id", None)
    if trace_id:
        head.append(f"trace={trace_id}")
    line = " ".join([*head, *(f"{key}={value}" for key, value in event.items() if key not in ("service", "span_id"))])
    return (f"{line}\n{stack}" if stack else line).encode()


class _Foreign(logging.Handler):
    """Lines of libraries, through the same processors."""

    def __init__(self, sink: structlog.BytesLogger, processors: list[Processor]) -> None:
        super().__init__()
        self._sink = sink
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "source": record.name, "exc_info": record.exc_info}
            for processor in self._processors:
                event = processor(self._sink, record.levelname.lower(), event)
            self._sink.msg(event)
        except Exception:
            self.handleError(record)


class _Repeats(logging.Filter):
    """Lets one line per template through in so many seconds, by the logger's first name."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        seconds = self._seconds.get(record.name.partition(".")[0])
        if seconds is None:
            return True
        now, key = time.monotonic(), (record.name, str(record.msg)[:200])
        if now - self._last.get(key, float("-inf")) < seconds:
            return False
        if len(self._last) >= REPEATS_KEPT_MAX:
            self._last.clear()
        self._last[key] = now
        return True
