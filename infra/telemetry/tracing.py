"""Starts and stops tracing. A dead backend never stops or slows a process: what it does not take is counted."""

import contextlib
import os
import socket
import sys
import threading
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from uuid import uuid4

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased

from infra.settings import Settings
from infra.telemetry import instruments, names, spans
from infra.telemetry.seed_names import SeedNames

log = structlog.get_logger(source=__name__)

INSTANCE_ID = str(uuid4())
NAMESPACE = "promotion"
SCOPE = "promo"

SAMPLERS: dict[str, Callable[[float], Sampler]] = {
    "always_on": lambda ratio: ALWAYS_ON,
    "always_off": lambda ratio: ALWAYS_OFF,
    "traceidratio": TraceIdRatioBased,
    "parentbased_always_on": lambda ratio: ParentBased(ALWAYS_ON),
    "parentbased_always_off": lambda ratio: ParentBased(ALWAYS_OFF),
    "parentbased_traceidratio": lambda ratio: ParentBased(TraceIdRatioBased(ratio)),
}


class _Started:
    provider: TracerProvider | None = None
    is_global: bool = False


def start(
    settings: Settings, *, service_version: str | None = None, processors: Sequence[SpanProcessor] | None = None
) -> None:
    """Begin tracing and say so in one line. It neither fails nor waits, whatever the backend does.

    `processors` replace the export to the backend (tests). With tracing off, ids are still made and passed on, so that
    answers and log lines carry them.
    """
    version = service_version or checkout_version()
    sys.setswitchinterval(settings.switch_interval_seconds)
    instruments.BUILD_INFO.labels(version, settings.git_sha, names.SCHEMA_URL.rpartition("/")[2]).set(1)
    try:
        _install(_provider(settings, version, processors))
    except Exception as error:
        _install(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
        log.warning("tracing.failed", message=f"[TracingService] Failed to initialize tracing: {error}")
        return
    if not settings.tracing_enabled:
        what = f"Tracing disabled for service: {settings.service_name}"
        log.info("tracing.disabled", message=f"[TracingService] {what}")
        return
    what = f"Tracing initialized for service: {settings.service_name}, endpoint: {endpoint(settings)}"
    log.info("tracing.initialized", message=f"[TracingService] {what}", endpoint=endpoint(settings))


def shutdown(timeout_seconds: float = 5.0) -> None:
    """Export what is queued, for at most `timeout_seconds`: the SDK's own bounds do not hold."""
    provider, _Started.provider = _Started.provider, None
    if provider is None:
        return
    stopping = threading.Thread(target=provider.shutdown, name="tracing-shutdown", daemon=True)
    stopping.start()
    stopping.join(timeout_seconds)


def endpoint(settings: Settings) -> str:
    """Where spans go: the standard name wins over the seed's."""
    return settings.otel_exporter_otlp_endpoint or settings.jaeger_endpoint


@cache
def checkout_version() -> str:
    """The version of this checkout, from its pyproject.toml."""
    with contextlib.suppress(OSError, KeyError, tomllib.TOMLDecodeError):
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        return str(project["version"])
    return "unknown"


def _install(provider: TracerProvider) -> None:
    _Started.provider = provider
    spans.use_tracer(provider.get_tracer(SCOPE, schema_url=names.SCHEMA_URL))
    if not _Started.is_global:  # the API takes one for life; stock packages and libraries read it
        trace.set_tracer_provider(provider)
        _Started.is_global = True


def _provider(settings: Settings, version: str, processors: Sequence[SpanProcessor] | None) -> TracerProvider:
    sampler = SAMPLERS[settings.otel_traces_sampler](settings.otel_traces_sampler_arg)
    provider = TracerProvider(
        sampler=sampler if settings.tracing_enabled else ALWAYS_OFF,
        resource=_resource(settings, version),
        span_limits=SpanLimits(max_links=settings.otel_span_link_count_limit),
        shutdown_on_exit=False,
    )
    if settings.tracing_enabled:
        for processor in [_Exporting(settings)] if processors is None else processors:
            provider.add_span_processor(SeedNames(processor) if settings.span_names == "seed" else processor)
    return provider


def _resource(settings: Settings, version: str) -> Resource:
    attributes: dict[str, str | int] = {
        names.SERVICE_NAME: settings.service_name,
        names.SERVICE_NAMESPACE: NAMESPACE,
        names.SERVICE_VERSION: version,
        names.SERVICE_INSTANCE_ID: INSTANCE_ID,
        names.DEPLOYMENT_ENVIRONMENT_NAME: settings.environment,
        names.HOST_NAME: socket.gethostname(),
        names.PROCESS_PID: os.getpid(),
    }
    return Resource.create(attributes, names.SCHEMA_URL)


class _Exporting(BatchSpanProcessor):
    """The SDK's batches, bounded and counted: a full queue drops the newest span without a log line for each."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            _Counting(_exporter(settings)),
            max_queue_size=settings.otel_bsp_max_queue_size,
            schedule_delay_millis=settings.otel_bsp_schedule_delay,
            max_export_batch_size=settings.otel_bsp_max_export_batch_size,
            export_timeout_millis=settings.otel_bsp_export_timeout,
        )
        self._waiting = self._batch_processor._queue
        self._waiting_max = settings.otel_bsp_max_queue_size
        instruments.SPAN_QUEUE.set_function(lambda: len(self._waiting))

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._waiting) >= self._waiting_max:
            instruments.SPANS_DROPPED.inc()
            return
        super().on_end(span)


class _Counting(SpanExporter):
    """Counts the spans the backend did not take."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                instruments.SPAN_EXPORT_FAILURES.inc()
                instruments.SPANS_DROPPED.inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _exporter(settings: Settings) -> SpanExporter:
    where = endpoint(settings)
    return OTLPSpanExporter(
        endpoint=where,
        insecure=not where.startswith("https://"),
        timeout=settings.otel_bsp_export_timeout / 1000,
    )
