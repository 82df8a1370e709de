"""Traces and metrics for stories, doors and drivers: one flat door to the package."""

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode

from infra.telemetry.carrier import (
    attached,
    context_of,
    empty_context,
    extract,
    inject,
    span_context,
    traceparent,
)
from infra.telemetry.spans import (
    add_span_attributes,
    add_span_event,
    copy,
    current_span,
    in_span,
    keeping,
    link,
    record_exception,
    root,
    span,
    start_span,
    tell,
    tracer,
    with_span,
)
from infra.telemetry.tracing import INSTANCE_ID, shutdown, start

__all__ = [
    "INSTANCE_ID",
    "Context",
    "Link",
    "Span",
    "SpanContext",
    "SpanKind",
    "StatusCode",
    "add_span_attributes",
    "add_span_event",
    "attached",
    "context_of",
    "copy",
    "current_span",
    "empty_context",
    "extract",
    "in_span",
    "inject",
    "keeping",
    "link",
    "record_exception",
    "root",
    "shutdown",
    "span",
    "span_context",
    "start",
    "start_span",
    "tell",
    "traceparent",
    "tracer",
    "with_span",
]
