"""The spans of calls: who hangs under whom, what they say, and which of them are red."""

import asyncio
from typing import Any

import grpc
import pytest
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
from structlog.testing import capture_logs

from infra import errors, telemetry
from infra.local.ports import free_ports
from infra.rpc.status import UpstreamFailed
from infra.telemetry import names
from protos.coupon.v1 import coupon_pb2 as pb
from tests.fixtures.call_spans import id_of, of_kind, pair, parent_of, said, under
from tests.fixtures.coalesced import Gate, refusing
from tests.fixtures.rpc import BATCH, UNARY, answer, calling, issue, request, serving, settings, soon
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually


async def test_a_call_is_a_client_span_and_under_it_a_server_span(spans: Spans) -> None:
    message = request()
    async with serving() as worker, calling(worker.address) as upstream:
        await under("root", issue(upstream, message))
    client, server = await pair(spans)
    (root,) = spans.named("root")
    assert parent_of(client) == id_of(root)
    port = int(worker.address.rpartition(":")[2])
    assert dict(client.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": UNARY,
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": port,
        "promo.operation": "gRPC CouponService/IssueCoupon",
        "promo.deadline_ms": pytest.approx(2_000, abs=100),
        "promo.attempt": 1,
        "promo.command.id": message.command_id,
    }
    assert dict(server.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": UNARY,
        "rpc.response.status_code": "OK",
        "promo.operation": "grpc.CouponService/IssueCoupon",
        "promo.outcome": "ok",
    }
    assert client.status.status_code is server.status.status_code is StatusCode.UNSET


async def test_what_a_handler_does_hangs_under_its_server_span(spans: Spans) -> None:
    async def story(message: pb.IssueCouponRequest) -> pb.Coupon:
        with telemetry.with_span("coupon.issue"):
            return pb.Coupon()

    async with serving(story) as worker, calling(worker.address) as upstream:
        await under("root", issue(upstream))
    _, server = await pair(spans)
    assert parent_of(spans.named("coupon.issue")[0]) == id_of(server)


async def test_without_a_sampled_parent_nothing_is_recorded_and_the_trace_travels_on(spans: Spans) -> None:
    seen: list[SpanContext] = []

    async def look(message: pb.IssueCouponRequest) -> pb.Coupon:
        seen.append(telemetry.current_span().get_span_context())
        return pb.Coupon()

    context = telemetry.extract({"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-00"})
    async with serving(look) as worker, calling(worker.address) as upstream:
        with telemetry.attached(context):
            await issue(upstream)
    assert spans.finished() == []
    assert (seen[0].trace_id, seen[0].trace_flags) == (int("a" * 32, 16), TraceFlags.DEFAULT)


async def test_a_refusal_is_no_red_span(spans: Spans) -> None:
    sold_out = refusing((1, lambda: errors.Refused.of(errors.Kind.STATE, "SOLD_OUT", {})))
    async with serving(sold_out) as worker, calling(worker.address) as upstream:
        with pytest.raises(errors.Refused):
            await under("root", issue(upstream))
    client, server = await pair(spans)
    wanted = (names.RPC_RESPONSE_STATUS_CODE, names.REFUSAL_CODE, names.ERROR_TYPE, names.OUTCOME)
    assert said(client, *wanted) == (StatusCode.UNSET, "FAILED_PRECONDITION", "SOLD_OUT", None, None)
    assert said(server, *wanted) == (StatusCode.UNSET, "FAILED_PRECONDITION", "SOLD_OUT", None, "refused")
    assert client.events == server.events == ()


async def test_a_bug_is_red_on_both_sides_and_told_once(spans: Spans) -> None:
    async with serving(refusing((1, RuntimeError))) as worker, calling(worker.address) as upstream:
        with capture_logs() as lines, pytest.raises(UpstreamFailed):
            await under("root", issue(upstream))
    client, server = await pair(spans)
    wanted = (names.RPC_RESPONSE_STATUS_CODE, names.ERROR_TYPE, names.OUTCOME)
    assert said(client, *wanted) == (StatusCode.ERROR, "INTERNAL", "INTERNAL", None)
    assert said(server, *wanted) == (StatusCode.ERROR, "INTERNAL", "RuntimeError", "error")
    assert [event.name for event in server.events] == ["exception"]
    assert client.events == ()
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request.completed"]


async def test_a_missed_deadline_is_red_on_both_sides(spans: Spans) -> None:
    async with serving(Gate()) as worker, calling(worker.address) as upstream:
        with pytest.raises(errors.DeadlineExceeded):
            await under("root", issue(upstream, deadline=soon(0.15)))
        client, server = await pair(spans)
    wanted = (names.RPC_RESPONSE_STATUS_CODE, names.ERROR_TYPE)
    for span in (client, server):
        assert said(span, *wanted) == (StatusCode.ERROR, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


async def test_a_client_that_leaves_is_red_on_no_side(spans: Spans) -> None:
    async with serving(Gate()) as worker, calling(worker.address) as upstream:
        call = asyncio.ensure_future(under("root", issue(upstream)))
        await eventually(lambda: worker.coupons.requests)
        call.cancel()
        client, server = await pair(spans)
    assert said(client, names.RPC_RESPONSE_STATUS_CODE) == (StatusCode.UNSET, "CANCELLED")
    assert said(server, names.RPC_RESPONSE_STATUS_CODE, names.OUTCOME) == (StatusCode.UNSET, "CANCELLED", "cancelled")


async def test_a_full_server_is_red_for_its_client_only(spans: Spans) -> None:
    gate = Gate()
    async with serving(gate, rpc_inflight_max=1) as worker, calling(worker.address) as upstream:
        held = asyncio.ensure_future(issue(upstream))
        await eventually(lambda: worker.coupons.requests)
        spans.exporter.clear()
        with pytest.raises(errors.Overloaded):
            await under("root", issue(upstream))
        client, server = await pair(spans)
        gate.open.set()
        await held
    assert said(client, names.RPC_RESPONSE_STATUS_CODE) == (StatusCode.ERROR, "RESOURCE_EXHAUSTED")
    wanted = (names.RPC_RESPONSE_STATUS_CODE, names.OUTCOME)
    assert said(server, *wanted) == (StatusCode.UNSET, "RESOURCE_EXHAUSTED", "refused")


async def test_a_worker_that_is_gone_is_two_red_tries(spans: Spans) -> None:
    async with calling(f"127.0.0.1:{free_ports(1)[0]}") as upstream:
        with pytest.raises(errors.Unavailable):
            await under("root", issue(upstream))
    tries = of_kind(spans, UNARY, SpanKind.CLIENT)
    assert [said(each, names.ATTEMPT, names.ERROR_TYPE) for each in tries] == [
        (StatusCode.ERROR, 1, "UNAVAILABLE"),
        (StatusCode.ERROR, 2, "UNAVAILABLE"),
    ]


async def test_an_open_breaker_makes_an_event_and_no_span(spans: Spans) -> None:
    async with calling(f"127.0.0.1:{free_ports(1)[0]}", breaker_calls_min=1) as upstream:
        with pytest.raises(errors.Unavailable):
            await under("first", issue(upstream))
        assert upstream.state().state == "OPEN"
        spans.exporter.clear()
        with pytest.raises(errors.Unavailable):
            await under("second", issue(upstream))
    assert spans.names() == ["second"]
    assert "breaker.open" in [event.name for event in spans.named("second")[0].events]


async def test_a_healed_try_is_red_and_the_second_one_is_not(spans: Spans) -> None:
    left = 1

    async def once(message: pb.IssueCouponRequest) -> pb.Coupon:
        nonlocal left
        left -= 1
        if left >= 0:
            raise errors.Unavailable
        return await answer(message)

    async with serving(once) as worker, calling(worker.address) as upstream:
        await under("root", issue(upstream))
    wanted = (names.ATTEMPT, names.RPC_RESPONSE_STATUS_CODE)
    assert [said(each, *wanted) for each in of_kind(spans, UNARY, SpanKind.CLIENT)] == [
        (StatusCode.ERROR, 1, "UNAVAILABLE"),
        (StatusCode.UNSET, 2, "OK"),
    ]


async def test_one_line_tells_of_each_call_and_of_each_item() -> None:
    with capture_logs() as lines:
        async with serving(refusing((3, errors.Forbidden))) as worker, calling(worker.address) as upstream:
            messages = [request(1), request(3)]
            items = [pb.IssueCouponItem(request=each, deadline_ms=1_000) for each in messages]
            await upstream.call("BatchIssueCoupons", pb.BatchIssueCouponsRequest(items=items), deadline=soon())
    told = [line for line in lines if line["event"] == "request.completed"]
    facts = ("method", "status", "outcome", "user_id", "command_id")
    assert [tuple(line[fact] for fact in facts) for line in told] == [
        (UNARY, "OK", "ok", "alice", messages[0].command_id),
        (UNARY, "PERMISSION_DENIED", "refused", "alice", messages[1].command_id),
        (BATCH, "OK", "ok", None, None),
    ]
    assert told[1]["refusal_code"] == "FORBIDDEN"


async def test_with_the_stock_instrumentation_ours_makes_no_spans(spans: Spans) -> None:
    stock: dict[str, Any] = {"instrumentation": "stock"}
    async with serving(answer, **stock) as worker, calling(worker.address, **stock) as upstream:
        assert (await under("root", issue(upstream))).message.user_id == "alice"
    assert spans.names() == ["root"]


async def test_calls_are_counted_by_method_and_status_on_both_sides() -> None:
    from infra.telemetry.metrics import REGISTRY

    def count(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"{name}_count", labels) or 0

    async with serving(refusing((3, errors.Unavailable))) as worker, calling(worker.address) as upstream:
        await issue(upstream)
        with pytest.raises(errors.Unavailable):
            await issue(upstream, request(3))
        client = {"rpc_method": UNARY, "server_address": worker.address}
        good = {"rpc_response_status_code": grpc.StatusCode.OK.name, "error_type": ""}
        bad = {"rpc_response_status_code": "UNAVAILABLE", "error_type": "UNAVAILABLE"}
        assert count("rpc_client_call_duration_seconds", **client, **good) == 1
        assert count("rpc_client_call_duration_seconds", **client, **bad) == 2
        assert count("rpc_server_call_duration_seconds", rpc_method=UNARY, **bad) >= 2
        assert REGISTRY.get_sample_value("promo_rpc_inflight_max") == settings().rpc_inflight_max
