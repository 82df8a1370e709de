"""The registry and its exposition."""

import re

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from infra import telemetry
from infra.telemetry import instruments, metrics
from tests.fixtures.tracing import Spans

NAME = re.compile(r"[a-z][a-z0-9_]*")
SEEN = metrics.histogram("test_exemplars_seconds", "Of these tests.", ["kind"], metrics.B1)
COUNTED = metrics.counter("test_counted", "Of these tests.", ["kind"])


def lines_of(name: str, kind: str) -> list[str]:
    text = metrics.exposition().decode()
    return [line for line in text.splitlines() if line.startswith(name) and f'kind="{kind}"' in line]


def test_a_sampled_trace_is_an_exemplar(spans: Spans) -> None:
    with telemetry.root("job") as span:
        metrics.observe(SEEN.labels("sampled"), 0.02)
        metrics.count(COUNTED.labels("sampled"))
    trace_id = f'trace_id="{span.get_span_context().trace_id:032x}"'
    span_id = f'span_id="{span.get_span_context().span_id:016x}"'
    for name in ("test_exemplars_seconds_bucket", "test_counted_total"):
        assert [line for line in lines_of(name, "sampled") if trace_id in line and span_id in line]


def test_an_unsampled_trace_is_none(spans: Spans) -> None:
    unsampled = telemetry.extract({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"})
    with telemetry.attached(unsampled):
        metrics.observe(SEEN.labels("unsampled"), 0.02)
    metrics.observe(SEEN.labels("unsampled"), 0.02)
    found = lines_of("test_exemplars_seconds", "unsampled")
    assert found
    assert not [line for line in found if "trace_id" in line]


def test_a_batch_observes_for_each_of_its_requests(spans: Spans) -> None:
    member = telemetry.start_span("batch", telemetry.SpanKind.INTERNAL)
    metrics.observe(SEEN.labels("member"), 0.02, span=member)
    assert f"{member.get_span_context().trace_id:032x}" in "".join(lines_of("test_exemplars_seconds_bucket", "member"))


def test_the_exposition_is_openmetrics() -> None:
    instruments.DB_SECONDS.labels("redis", "0", "GET", "GET point:balance", "", "").observe(0.001)
    text = metrics.exposition().decode()
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]  # theirs has no annotations
    assert "process_cpu_seconds" in families
    assert "python_gc_collections" in families
    assert "db_client_operation_duration_seconds" in families
    assert all(family.documentation for family in families.values())
    assert "_created" not in text
    assert metrics.CONTENT_TYPE.startswith("application/openmetrics-text")


def test_every_platform_metric_has_a_unit_or_says_what_it_counts() -> None:
    found = [each for each in vars(instruments).values() if isinstance(each, Counter | Gauge | Histogram)]
    assert len(found) > 50
    for each in found:
        description = next(iter(each.collect()))
        assert NAME.fullmatch(description.name)
        assert description.documentation.endswith(".")
        if isinstance(each, Histogram):
            assert description.name.endswith(("_seconds", "_size"))


def test_the_bounds_of_the_objectives_are_bucket_bounds() -> None:
    assert {0.5, 5.0} <= set(metrics.B1)
    assert {0.5, 5.0} <= set(metrics.B2)
