"""Makes spans, cheaply: none at all below a parent that is not sampled, whose context still travels on.

Three ways to open one. `span` and `with_span` are children of the current span, and are skipped where there is no
sampled parent. `start_span` and `root` begin a trace where there is none: doors and background jobs.
"""

import asyncio
import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, set_span_in_context
from opentelemetry.util.types import AttributeValue

from infra.errors import Kind, Refused
from infra.telemetry import names, redact

Attributes: TypeAlias = Mapping[str, AttributeValue]
Links: TypeAlias = Sequence[Link]

# A refusal is normal business and no red span, except where it means "not there" or "too late".
FAULTS = frozenset({Kind.UNAVAILABLE, Kind.DEADLINE})
_RECORDED = "__promo_recorded__"
_KEPT: ContextVar[list[ReadableSpan] | None] = ContextVar("kept_spans", default=None)
_IDS = RandomIdGenerator()


class Spans(Protocol):
    """What opens a span for a `with` block."""

    def __enter__(self) -> Span: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class _Source:
    """Where spans come from: a tracer that makes none, until tracing is started."""

    tracer: trace.Tracer = trace.NoOpTracer()


def tracer() -> trace.Tracer:
    """The process's tracer; before `telemetry.start` one whose spans go nowhere."""
    return _Source.tracer


def use_tracer(tracer: trace.Tracer) -> None:
    """From now on spans come from this tracer."""
    _Source.tracer = tracer


def span(
    name: str,
    kind: SpanKind = SpanKind.CLIENT,
    attributes: Attributes | None = None,
    links: Links | None = None,
    context: Context | None = None,
) -> Spans:
    """A child of the current span (or of the one in `context`) for a driver; nothing where that is not sampled.

    The block gets the span, or one that ignores everything. An exception makes it an error.
    """
    parent = trace.get_current_span(context)
    if not parent.get_span_context().trace_flags & trace.TraceFlags.SAMPLED:
        return _Skipped(parent)
    return _Opened(_Source.tracer.start_span(name, context, kind, attributes, links, record_exception=False))


def with_span(name: str, operation: str | None = None, attributes: Attributes | None = None) -> Spans:
    """A moment with a name, for stories: a child of the current span, `operation` its seed name (default: the name)."""
    parent = trace.get_current_span()
    if not parent.get_span_context().trace_flags & trace.TraceFlags.SAMPLED:
        return _Skipped(parent)
    named = {names.OPERATION: operation or name, **(attributes or {})}
    return _Opened(_Source.tracer.start_span(name, None, SpanKind.INTERNAL, named, record_exception=False))


def start_span(
    name: str,
    kind: SpanKind,
    *,
    context: Context | None = None,
    attributes: Attributes | None = None,
    links: Links | None = None,
    start_time: int | None = None,
) -> Span:
    """A span that is ended by hand, under the one in `context` (default: the current one), else the root of a trace.

    Below an unsampled parent it is the parent itself, without recording. `start_time` in ns since 1970, as for copies
    of what happened once for many traces. Use it for doors, streams and whatever does not live in one `with` block.
    """
    parent = trace.get_current_span(context).get_span_context()
    if parent.is_valid and not parent.trace_flags & trace.TraceFlags.SAMPLED:
        return trace.NonRecordingSpan(parent)
    return _Source.tracer.start_span(
        name, context, kind, attributes, links, start_time, record_exception=False, set_status_on_exception=False
    )


def root(name: str, attributes: Attributes | None = None, links: Links | None = None) -> Spans:
    """The first span of a trace of its own, for a background job; the sampler decides whether it is recorded."""
    return _Opened(
        _Source.tracer.start_span(name, Context(), SpanKind.INTERNAL, attributes, links, record_exception=False)
    )


def in_span(span: Span, *, end: bool = False) -> Spans:
    """Makes a span the current one for a block; its errors are told to it. With `end` it ends there too."""
    return _Opened(span) if end else _Entered(span)


def unsampled() -> SpanContext:
    """New ids for what makes no span but whose answers and log lines carry ids."""
    return SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False)


def current_span() -> Span:
    """The span this code runs in, or one that ignores everything."""
    return trace.get_current_span()


def add_span_attributes(attributes: Attributes | None = None, **named: AttributeValue) -> None:
    """Say more about the current span; a keyword's `_` stands for `.`: `promo_replayed=True`."""
    current = trace.get_current_span()
    if current.is_recording():
        current.set_attributes({**(attributes or {}), **{name.replace("_", "."): each for name, each in named.items()}})


def add_span_event(name: str, attributes: Attributes | None = None) -> None:
    """Something happened inside the current span."""
    current = trace.get_current_span()
    if current.is_recording():
        current.add_event(name, attributes)


def record_exception(error: BaseException, span: Span | None = None) -> None:
    """The current span (or `span`) failed with `error`: status Error, error.type, one `exception` event.

    The event is written on the innermost span that is told; spans further out only become errors.
    """
    failed = span or trace.get_current_span()
    if not failed.is_recording():
        return
    kind = type(error).__qualname__
    if names.ERROR_TYPE not in (getattr(failed, "attributes", None) or {}):
        failed.set_attribute(names.ERROR_TYPE, kind)
    failed.set_status(StatusCode.ERROR, kind)
    if getattr(error, _RECORDED, False):
        return
    with contextlib.suppress(AttributeError):  # an exception with slots: told twice is better than not at all
        setattr(error, _RECORDED, True)
    stack = "".join(traceback.format_exception(error))
    failed.add_event(
        "exception",
        {
            names.EXCEPTION_TYPE: kind,
            names.EXCEPTION_MESSAGE: redact.text(str(error)),
            names.EXCEPTION_STACKTRACE: redact.text(stack[-redact.TEXT_MAX :]),
        },
    )


def tell(span: Span, error: BaseException) -> None:
    """What an exception that leaves a block says of its span: a cancel nothing, a refusal its code, others an error."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit) or not span.is_recording():
        return
    if not isinstance(error, Refused):
        record_exception(error, span)
        return
    span.set_attribute(names.REFUSAL_CODE, error.code)
    if error.kind in FAULTS:
        span.set_attribute(names.ERROR_TYPE, error.code)
        span.set_status(StatusCode.ERROR, error.code)


@contextlib.contextmanager
def keeping() -> Iterator[list[ReadableSpan]]:
    """Collects the spans that end inside the block, for `copy`."""
    kept: list[ReadableSpan] = []
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def copy(spans: Sequence[ReadableSpan], parent: Span) -> None:
    """What happened once for several traces, under `parent` too: real times, marked `promo.batch.shared`, no metric."""
    made: dict[int, Span] = {}
    for each in sorted(spans, key=lambda span: span.start_time or 0):
        above = made.get(each.parent.span_id, parent) if each.parent else parent
        copied = _Source.tracer.start_span(
            each.name,
            set_span_in_context(above, Context()),
            each.kind,
            {**(each.attributes or {}), names.BATCH_SHARED: True},
            start_time=each.start_time,
        )
        if not each.status.is_unset:
            copied.set_status(each.status)
        if each.context is not None:
            made[each.context.span_id] = copied
        copied.end(each.end_time)


def link(context: SpanContext, kind: str) -> Link:
    """A link that says why it is there (`batch`, `rpc`, `relay`, `send`)."""
    return Link(context, {names.LINK: kind})


class _Entered:
    """Makes a span current for a block and tells it how the block ended."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token = attach(set_span_in_context(self._span))
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        detach(self._token)
        if error is not None:
            tell(self._span, error)


class _Opened(_Entered):
    """The same, and ends the span."""

    __slots__ = ()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        self._span.end()
        kept = _KEPT.get()
        if kept is not None and isinstance(self._span, ReadableSpan):
            kept.append(self._span)


class _Skipped:
    """No span: the parent stands in its place, which records nothing either, so that its context travels on."""

    __slots__ = ("_parent",)

    def __init__(self, parent: Span) -> None:
        self._parent = parent

    def __enter__(self) -> Span:
        return self._parent

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return
