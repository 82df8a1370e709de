"""Carries the trace context over a wire: two texts, `traceparent` and `tracestate` (W3C)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanContext, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
TRACESTATE_MAX = 512  # characters; a longer one is dropped, as the standard allows

_PROPAGATOR = TraceContextTextMapPropagator()


def inject(span: Span | None = None) -> dict[str, str]:
    """The headers that hang what follows under `span` (default: the current one); empty where there is none."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return {}
    headers = {TRACEPARENT: traceparent(context)}
    if context.trace_state:
        headers[TRACESTATE] = context.trace_state.to_header()
    return headers


def extract(headers: Mapping[str, str | bytes]) -> Context:
    """The context in these headers (names in lower case), with nothing of the current one; bad headers are ignored."""
    found = headers.get(TRACEPARENT)
    if not found:
        return Context()
    carrier = {TRACEPARENT: _text(found)}
    state = headers.get(TRACESTATE)
    if state and len(state) <= TRACESTATE_MAX:
        carrier[TRACESTATE] = _text(state)
    return _PROPAGATOR.extract(carrier, Context())


def traceparent(context: SpanContext) -> str:
    """The W3C text of a span's context."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def span_context(context: Context) -> SpanContext:
    """The context's span as its ids and flags; invalid where there is none."""
    return trace.get_current_span(context).get_span_context()


def context_of(span: Span) -> Context:
    """A context that holds this span and nothing else: the explicit parent for `span(..., context=)`."""
    return set_span_in_context(span, Context())


def empty_context() -> Context:
    """A context without a span. Loops that were started inside a request would else keep its span for life."""
    return Context()


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """Runs a block in a context; never across a `yield` of an async generator (the token belongs to the task)."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
