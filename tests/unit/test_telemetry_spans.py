"""Spans: where they are made, where not, and how a block's end marks them."""

import asyncio
import timeit

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from infra import telemetry
from infra.errors import Refused, Unavailable, ValidationFailed
from infra.settings import Settings
from infra.telemetry import names
from tests.fixtures.tracing import Spans

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
DROPPED_MAX_US = 5.0


def test_a_driver_span_needs_a_sampled_parent(spans: Spans) -> None:
    with telemetry.span("SELECT"):
        pass
    with telemetry.attached(telemetry.extract({"traceparent": UNSAMPLED})), telemetry.span("SELECT"):
        pass
    assert spans.finished() == []


def test_below_an_unsampled_parent_the_context_travels_on(spans: Spans) -> None:
    with (
        telemetry.attached(telemetry.extract({"traceparent": UNSAMPLED})),
        telemetry.with_span("coupon.issue"),
        telemetry.span("SELECT"),
    ):
        assert telemetry.inject() == {"traceparent": UNSAMPLED}
    assert spans.finished() == []


def test_a_remote_parent_that_is_sampled_gets_children(spans: Spans) -> None:
    span = telemetry.start_span("Issue", telemetry.SpanKind.SERVER, context=telemetry.extract({"traceparent": SAMPLED}))
    with telemetry.in_span(span, end=True), telemetry.with_span("coupon.issue"), telemetry.span("SELECT coupons"):
        pass
    assert spans.names() == ["SELECT coupons", "coupon.issue", "Issue"]
    select, story, server = spans.finished()
    assert [each.parent and each.parent.span_id for each in (select, story)] == [
        each.context.span_id for each in (story, server)
    ]
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
    assert {f"{each.context.trace_id:032x}" for each in spans.finished()} == {"0af7651916cd43dd8448eb211c80319c"}
    assert select.kind is telemetry.SpanKind.CLIENT


def test_a_door_below_an_unsampled_parent_keeps_its_ids(spans: Spans) -> None:
    span = telemetry.start_span(
        "Issue", telemetry.SpanKind.SERVER, context=telemetry.extract({"traceparent": UNSAMPLED})
    )
    assert telemetry.inject(span) == {"traceparent": UNSAMPLED}
    span.end()
    assert spans.finished() == []


def test_the_story_has_its_operation(spans: Spans) -> None:
    with telemetry.root("relay outbox"), telemetry.with_span("coupon.issue", attributes={"promo.policy.id": 7}):
        telemetry.add_span_attributes({names.REPLAYED: True})
        telemetry.add_span_event("coupon.issued", {"promo.coupon.id": 1})
    story = spans.named("coupon.issue")[0]
    assert dict(story.attributes or {}) == {names.OPERATION: "coupon.issue", "promo.policy.id": 7, names.REPLAYED: True}
    assert [event.name for event in story.events] == ["coupon.issued"]


def test_an_exception_is_one_event_on_the_innermost_span(spans: Spans) -> None:
    with pytest.raises(ValueError, match="no"), telemetry.root("job"), telemetry.with_span("b"), telemetry.span("c"):
        raise ValueError("no: a@b.example")
    assert [(each.name, each.status.status_code, len(each.events)) for each in spans.finished()] == [
        ("c", telemetry.StatusCode.ERROR, 1),
        ("b", telemetry.StatusCode.ERROR, 0),
        ("job", telemetry.StatusCode.ERROR, 0),
    ]
    event = spans.named("c")[0].events[0]
    assert (event.attributes or {})[names.EXCEPTION_TYPE] == "ValueError"
    assert (event.attributes or {})[names.EXCEPTION_MESSAGE] == "no: [redacted]"


def test_a_driver_names_the_error_itself(spans: Spans) -> None:
    with pytest.raises(OSError, match="gone"), telemetry.root("job"), telemetry.span("SELECT") as span:
        span.set_attribute(names.ERROR_TYPE, "08006")
        raise OSError("gone")
    assert (spans.named("SELECT")[0].attributes or {})[names.ERROR_TYPE] == "08006"


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(ValidationFailed({}), telemetry.StatusCode.UNSET), (Unavailable(), telemetry.StatusCode.ERROR)],
)
def test_a_refusal_is_no_error_unless_something_is_away(
    spans: Spans, refusal: Refused, status: telemetry.StatusCode
) -> None:
    with pytest.raises(Refused), telemetry.root("job"):
        raise refusal
    span = spans.finished()[0]
    assert span.status.status_code is status
    assert (span.attributes or {})[names.REFUSAL_CODE] == refusal.code
    assert span.events == ()


async def test_a_cancel_is_no_error(spans: Spans) -> None:
    with pytest.raises(asyncio.CancelledError), telemetry.root("job"):
        raise asyncio.CancelledError
    assert spans.finished()[0].status.status_code is telemetry.StatusCode.UNSET


def test_an_explicit_parent_is_another_spans_child(spans: Spans) -> None:
    leader = telemetry.start_span("batch coupon.policy", telemetry.SpanKind.INTERNAL)
    with telemetry.span("INSERT coupons", context=telemetry.context_of(leader)):
        pass
    leader.end()
    insert = spans.named("INSERT coupons")[0]
    assert insert.parent is not None
    assert insert.parent.span_id == leader.get_span_context().span_id


def test_tracestate_travels_and_bad_headers_are_ignored(spans: Spans) -> None:
    context = telemetry.extract({"traceparent": SAMPLED.encode(), "tracestate": b"vendor=1"})
    with telemetry.attached(context):
        assert telemetry.inject() == {"traceparent": SAMPLED, "tracestate": "vendor=1"}
    long = telemetry.extract({"traceparent": SAMPLED, "tracestate": "a=" + "1" * 600})
    with telemetry.attached(long):
        assert telemetry.inject() == {"traceparent": SAMPLED}
    for bad in (
        "",
        "00",
        "ff-" + SAMPLED[3:],
        SAMPLED.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        "\x00\xff",
    ):
        assert not telemetry.span_context(telemetry.extract({"traceparent": bad})).is_valid
    assert telemetry.inject() == {}


def test_an_unsampled_driver_call_costs_microseconds(spans: Spans) -> None:
    attributes = {"db.system.name": "postgresql"}

    def call() -> None:
        with telemetry.span("SELECT", attributes=attributes):
            pass

    with telemetry.attached(telemetry.extract({"traceparent": UNSAMPLED})):
        best = min(timeit.repeat(call, number=2_000, repeat=20)) / 2_000 * 1e6
    assert best < DROPPED_MAX_US


def test_the_seed_names_stand_beside_the_standard_ones() -> None:
    memory = InMemorySpanExporter()
    settings = Settings(span_names="seed", otel_traces_sampler="always_on")
    telemetry.start(settings, processors=[SimpleSpanProcessor(memory)])
    with telemetry.root("POST", {names.HTTP_REQUEST_METHOD: "POST"}) as span, telemetry.with_span("coupon.issue"):
        span.set_attributes({names.OPERATION: "HTTP POST /api/v1/coupons/issue", names.HTTP_RESPONSE_STATUS_CODE: 201})
    story, server = memory.get_finished_spans()
    assert server.name == "HTTP POST /api/v1/coupons/issue"
    assert (server.attributes or {})["http.method"] == "POST"
    assert (server.attributes or {})["http.status_code"] == 201
    assert (story.attributes or {})["operation.type"] == "coupon_issuance"
    telemetry.shutdown()
