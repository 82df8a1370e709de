"""Declares and prints metrics: one registry a process, OpenMetrics, exemplars of sampled traces only.

Durations are seconds. A label never holds an id. Look children up once (`.labels(...)` costs more than the count).
"""

from collections.abc import Sequence

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's function has no annotations

B1 = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
B2 = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
B2_FINE = (0.0001, 0.00025, 0.0005, *B2)  # where Redis is measured too
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DELIVERY = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    """A number that only grows; `name` without `_total`."""
    return Counter(name, help, labels, registry=REGISTRY)


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
    """A number that goes up and down."""
    return Gauge(name, help, labels, registry=REGISTRY)


def histogram(name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = B1) -> Histogram:
    """How a measure is spread, in the unit its name ends with."""
    return Histogram(name, help, labels, buckets=buckets, registry=REGISTRY)


def observe(child: Histogram, value: float, span: trace.Span | None = None) -> None:
    """Count a measure, with the trace of `span` (default: the current one) as exemplar where it is sampled."""
    child.observe(value, _exemplar(span))


def count(child: Counter, amount: float = 1, span: trace.Span | None = None) -> None:
    """Count events, with the trace of `span` (default: the current one) as exemplar where it is sampled."""
    child.inc(amount, _exemplar(span))


def exposition() -> bytes:
    """All metrics of the process as OpenMetrics text."""
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # the library's function has no annotations
    return text


def _exemplar(span: trace.Span | None) -> dict[str, str] | None:
    context = (span or trace.get_current_span()).get_span_context()
    if not context.trace_flags & trace.TraceFlags.SAMPLED:
        return None
    return {"trace_id": format(context.trace_id, "032x"), "span_id": format(context.span_id, "016x")}
