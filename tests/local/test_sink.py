"""The sink takes what the real exporter sends and answers as Jaeger's query API does."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from infra.local import spans
from infra.local.ports import free_ports
from infra.local.sink import Traces, serving


@pytest.fixture
def ports() -> tuple[int, int]:
    otlp, query = free_ports(2)
    return otlp, query


@pytest.fixture
def provider(ports: tuple[int, int]) -> Iterator[TracerProvider]:
    """A tracer provider that exports each span to the sink's port when it ends."""
    made = TracerProvider(resource=Resource.create({"service.name": "some-service"}))
    made.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"127.0.0.1:{ports[0]}", insecure=True)))
    yield made
    made.shutdown()


async def fetch(port: int, trace_id: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=5) as client:
        return await client.get(f"http://127.0.0.1:{port}/api/v3/traces/{trace_id}")


async def test_what_the_exporter_sends_comes_back_with_parents_links_kinds_and_errors(
    ports: tuple[int, int], provider: TracerProvider
) -> None:
    tracer = provider.get_tracer("test")

    def trace() -> tuple[str, str, str]:
        with tracer.start_as_current_span("root", kind=SpanKind.SERVER) as root:
            link = Link(root.get_span_context())
            with tracer.start_as_current_span("child", kind=SpanKind.CONSUMER, links=[link]) as child:
                child.set_attribute("messaging.batch.message_count", 3)
                child.set_status(Status(StatusCode.ERROR, "broken"))
        context = root.get_span_context()
        return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{child.get_span_context().span_id:016x}"

    async with serving(*ports):
        trace_id, root_id, child_id = await asyncio.to_thread(trace)
        answer = (await fetch(ports[1], trace_id)).json()

    root, child = spans.parse(answer)
    assert (root.name, root.span_id, root.parent_id, root.service, root.error) == (
        "root",
        root_id,
        "",
        "some-service",
        None,
    )
    assert (child.name, child.span_id, child.parent_id, child.error) == ("child", child_id, root_id, "broken")
    assert child.links == (root_id,)
    raw = [span for part in answer["result"]["resourceSpans"] for span in part["scopeSpans"][0]["spans"]]
    assert {span["name"]: span["kind"] for span in raw} == {"root": 2, "child": 5}
    assert {span["traceId"] for span in raw} == {trace_id}


async def test_an_unknown_trace_and_an_id_that_is_none_are_not_found(ports: tuple[int, int]) -> None:
    async with serving(*ports):
        assert (await fetch(ports[1], "0" * 32)).status_code == 404
        assert (await fetch(ports[1], "no-hex")).status_code == 404


def exported(trace_id: bytes, count: int) -> ResourceSpans:
    made = [
        Span(trace_id=trace_id, span_id=bytes([n] * 8), name="some", start_time_unix_nano=1, end_time_unix_nano=2)
        for n in range(count)
    ]
    return ResourceSpans(scope_spans=[ScopeSpans(spans=made)])


def test_the_oldest_traces_make_room_for_new_ones() -> None:
    traces = Traces(spans_max=5)
    for number in range(1, 4):
        traces.add(exported(bytes([number] * 16), 2))

    assert traces.find(bytes([1] * 16)) is None
    assert traces.find(bytes([2] * 16)) is not None
    assert traces.find(bytes([3] * 16)) is not None


def test_a_trace_larger_than_the_bound_does_not_stay() -> None:
    traces = Traces(spans_max=5)
    traces.add(exported(b"1" * 16, 6))

    assert traces.find(b"1" * 16) is None


def test_one_export_with_several_traces_is_cut_apart() -> None:
    both = exported(b"1" * 16, 1)
    both.MergeFrom(exported(b"2" * 16, 2))
    traces = Traces()
    traces.add(both)

    assert len(spans.parse({"result": traces.find(b"1" * 16)})) == 1
    assert len(spans.parse({"result": traces.find(b"2" * 16)})) == 2
