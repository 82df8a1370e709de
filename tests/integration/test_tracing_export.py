"""Spans reach a real OTLP backend, and the process says where it sends them."""

import io
import threading
from collections.abc import Iterator, Sequence

import httpx2
import orjson
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from infra import logs, telemetry
from infra.local import sink
from infra.local.ports import free_ports
from infra.settings import Settings
from infra.telemetry import instruments, tracing
from tests.fixtures.waiting import eventually


@pytest.fixture
def out() -> Iterator[io.BytesIO]:
    kept, stream = structlog.get_config(), io.BytesIO()
    before = telemetry.tracer()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer(serializer=orjson.dumps)],
        logger_factory=structlog.BytesLoggerFactory(stream),
    )
    yield stream
    structlog.configure(**kept)
    telemetry.shutdown()
    telemetry.spans.use_tracer(before)


async def test_a_span_arrives_with_its_resource(out: io.BytesIO) -> None:
    otlp, query = free_ports(2)
    settings = Settings(
        service_name="coupon-service", otel_traces_sampler="always_on", jaeger_endpoint="nowhere:1",
        otel_exporter_otlp_endpoint=f"http://127.0.0.1:{otlp}", otel_bsp_schedule_delay=50,
    )  # fmt: skip
    async with sink.serving(otlp, query), httpx2.AsyncClient() as client:
        telemetry.start(settings)
        with telemetry.root("expire coupons") as span:
            pass
        trace_id = f"{span.get_span_context().trace_id:032x}"
        url = f"http://127.0.0.1:{query}/api/v3/traces/{trace_id}"

        async def arrived() -> bool:
            return (await client.get(url)).status_code == 200

        await eventually(arrived)
        [found] = (await client.get(url)).json()["result"]["resourceSpans"]
    resource = {each["key"]: each["value"] for each in found["resource"]["attributes"]}
    assert resource["service.name"] == {"stringValue": "coupon-service"}
    assert resource["service.namespace"] == {"stringValue": "promotion"}
    assert {"service.version", "service.instance.id", "deployment.environment.name", "host.name", "process.pid"} <= set(
        resource
    )
    assert found["scopeSpans"][0]["spans"][0]["name"] == "expire coupons"


def test_a_backend_that_cannot_be_used_is_a_line_and_not_the_end(
    out: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: Settings) -> None:
        raise RuntimeError("no such endpoint")

    monkeypatch.setattr(tracing, "_exporter", broken)
    telemetry.start(Settings())
    with telemetry.root("job") as span:
        assert span.get_span_context().is_valid  # answers and log lines carry ids all the same
    line = orjson.loads(out.getvalue())
    assert line["event"] == "tracing.failed"
    assert line["message"] == "[TracingService] Failed to initialize tracing: no such endpoint"


class _Stuck(SpanExporter):
    """A backend that answers when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.let.wait(10)
        return SpanExportResult.FAILURE


def test_spans_that_find_the_queue_full_and_those_of_failed_exports_are_counted(
    out: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _Stuck()
    monkeypatch.setattr(tracing, "_exporter", lambda settings: backend)
    before = instruments.SPANS_DROPPED._value.get()
    telemetry.start(
        Settings(otel_traces_sampler="always_on", otel_bsp_max_queue_size=20, otel_bsp_max_export_batch_size=10)
    )
    for _ in range(1_000):
        with telemetry.root("job"):
            pass
    full = instruments.SPANS_DROPPED._value.get() - before
    assert 1_000 - 40 <= full < 1_000
    backend.let.set()
    telemetry.shutdown()
    assert instruments.SPANS_DROPPED._value.get() - before == 1_000


@pytest.mark.parametrize(
    ("sampler", "ratio", "sampled"),
    [("always_on", 0.0, True), ("always_off", 1.0, False), ("parentbased_traceidratio", 1.0, True),
     ("parentbased_traceidratio", 0.0, False), ("traceidratio", 0.0, False)],
)  # fmt: skip
def test_roots_are_sampled_as_the_settings_say(out: io.BytesIO, sampler: str, ratio: float, sampled: bool) -> None:
    settings = Settings.model_validate({"otel_traces_sampler": sampler, "otel_traces_sampler_arg": ratio})
    telemetry.start(settings, processors=[])
    with telemetry.root("job") as span:
        assert span.is_recording() is sampled
        assert span.get_span_context().is_valid


def test_with_tracing_off_ids_are_made_and_passed_on(out: io.BytesIO) -> None:
    telemetry.start(Settings(tracing_enabled=False, otel_traces_sampler="always_on"))
    with telemetry.root("job") as span:
        assert not span.is_recording()
        assert telemetry.inject()["traceparent"].endswith("-00")
    assert logs.request_id.get() is None


def test_the_version_is_the_checkouts() -> None:
    assert tracing.checkout_version() != "unknown"
