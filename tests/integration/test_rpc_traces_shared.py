"""The spans of requests that share a call."""

import asyncio

from opentelemetry.trace import SpanKind, StatusCode

from infra.telemetry import names
from tests.fixtures.call_spans import attribute, id_of, of_kind, pair, parent_of, said, under
from tests.fixtures.coalesced import Gate, fail_batches, refusing, together
from tests.fixtures.rpc import BATCH, UNARY, answer, request, soon
from tests.fixtures.tracing import Spans


async def test_in_a_shared_call_every_item_has_its_own_pair_and_the_call_hangs_under_the_first(spans: Spans) -> None:
    gate = Gate(refusing((3, RuntimeError)))
    async with together(gate) as row:
        await row.fill()
        spans.exporter.clear()
        asked = [
            asyncio.ensure_future(under(f"item {policy}", row.coalescer.call(request(policy), key=7, deadline=soon())))
            for policy in (1, 2, 3)
        ]
        await asyncio.sleep(0.02)
        gate.open.set()
        await asyncio.gather(*asked, return_exceptions=True)
        await row.outcomes()
    carried = [span for span in of_kind(spans, UNARY, SpanKind.CLIENT) if attribute(span, names.RPC_BATCH_SIZE) == 3]
    servers = {parent_of(span): span for span in of_kind(spans, UNARY, SpanKind.SERVER)}
    for policy, client in zip((1, 2, 3), carried, strict=True):
        assert parent_of(client) == id_of(spans.named(f"item {policy}")[0])
        assert servers[id_of(client)].context.trace_id == spans.named(f"item {policy}")[0].context.trace_id
        assert attribute(client, names.RPC_WAIT_MS) >= 10
        red = StatusCode.ERROR if policy == 3 else StatusCode.UNSET
        assert client.status.status_code is servers[id_of(client)].status.status_code is red
    wire, served = await pair(spans, BATCH)
    assert parent_of(wire) == id_of(carried[0])
    assert wire.status.status_code is served.status.status_code is StatusCode.UNSET
    assert carried[0].links == ()
    for client in carried[1:]:
        assert [(link.context.span_id, dict(link.attributes or {})) for link in client.links] == [
            (id_of(wire), {"promo.link": "rpc"})
        ]


async def test_a_lone_call_says_that_it_shared_and_waited_for_nothing(spans: Spans) -> None:
    async with together(answer) as row:
        await under("root", row.ask())
    client, _ = await pair(spans)
    assert said(client, names.RPC_BATCH_SIZE, names.RPC_WAIT_MS) == (StatusCode.UNSET, 1, 0)


async def test_one_that_waited_alone_has_one_pair_from_when_it_was_asked(spans: Spans) -> None:
    gate = Gate()
    async with together(gate) as row:
        await row.fill()
        spans.exporter.clear()
        asked = asyncio.ensure_future(under("root", row.coalescer.call(request(), key=7, deadline=soon())))
        await asyncio.sleep(0.02)
        gate.open.set()
        await asked
        await row.outcomes()
    (client,) = [span for span in of_kind(spans, UNARY, SpanKind.CLIENT) if span.parent is not None]
    assert parent_of(client) == id_of(spans.named("root")[0])
    assert attribute(client, names.RPC_WAIT_MS) >= 10
    assert (client.end_time or 0) - (client.start_time or 0) >= 10_000_000


async def test_an_item_asked_for_again_has_a_red_try_and_then_a_good_one(spans: Spans) -> None:
    gate = Gate()
    async with together(gate) as row:
        fail_batches(row.worker, RuntimeError, 1)
        await row.fill()
        spans.exporter.clear()
        asked = [
            asyncio.ensure_future(under(f"item {number}", row.coalescer.call(request(), key=7, deadline=soon())))
            for number in range(2)
        ]
        await asyncio.sleep(0.02)
        gate.open.set()
        await asyncio.gather(*asked)
        await row.outcomes()
    for number in range(2):
        tries = spans.children_of(spans.named(f"item {number}")[0])
        assert [said(each, names.ATTEMPT, names.RPC_RESPONSE_STATUS_CODE) for each in tries] == [
            (StatusCode.ERROR, None, "INTERNAL"),
            (StatusCode.UNSET, 2, "OK"),
        ]
