"""The trace of an event: sending, processing, and the consumer's own writes under the request that began it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from infra import dead_letters, outbox, telemetry
from infra.consumer import Record
from infra.postgres import Conn
from tests.conftest import MakeDatabase, MakeTopics
from tests.fixtures.consuming import GROUP, TOPIC, Bench, Effects, MakeBench, bench_maker, poison
from tests.fixtures.events import make_event, running
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually

TRANSACTION = ["BEGIN", "INSERT inbox", "SQL", "INSERT outbox", "COMMIT"]


@pytest.fixture
async def make_bench(
    make_database: MakeDatabase, make_topics: MakeTopics, kafka_brokers: str, topic_prefix: str
) -> AsyncIterator[MakeBench]:
    async with bench_maker(make_database, make_topics, kafka_brokers, topic_prefix) as make:
        yield make


class Chained(Effects):
    """Each event makes another one, under its own trace."""

    async def handle(self, conn: Conn, records: Sequence[Record]) -> Callable[[], Awaitable[None]]:
        after = await super().handle(conn, records)
        await outbox.add(
            conn,
            [
                make_event(record.key, 900, topic="point.spent", traceparent=record.traceparent or "")
                for record in records
            ],
        )
        return after


async def send_requests(bench: Bench, *numbers: int) -> list[telemetry.SpanContext]:
    """One event per request, each in its own trace; sent by one round."""
    contexts = []
    for number in numbers:
        with telemetry.root(f"request {number}") as request:
            contexts.append(request.get_span_context())
            async with bench.database.transaction() as conn:
                await outbox.add(conn, [make_event(f"u-{number}", number)])
    await bench.relay.relay_once()
    return contexts


def in_trace(spans: Spans, context: telemetry.SpanContext, name: str) -> list[ReadableSpan]:
    return [span for span in spans.named(name) if context_of(span).trace_id == context.trace_id]


def context_of(span: ReadableSpan) -> telemetry.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


async def test_processing_hangs_under_the_send_and_every_trace_ends_with_its_own_writes(
    make_bench: MakeBench, spans: Spans
) -> None:
    bench, effects = await make_bench(), Chained()
    requests = await send_requests(bench, 1, 2, 3)
    async with running(bench.consumer(effects).run):
        await eventually(lambda: len(effects.committed) == 3)
        await eventually(lambda: spans.named(f"commit {bench.topic}"))
    for request in requests:
        [send] = in_trace(spans, request, f"send {bench.topic}")
        [process] = in_trace(spans, request, f"process {bench.topic}")
        assert process.parent is not None
        assert process.parent.span_id == context_of(send).span_id
        assert [link.context.span_id for link in process.links] == [context_of(send).span_id]
        assert process.kind is SpanKind.CONSUMER
        assert process.attributes is not None
        assert process.attributes["promo.outcome"] == "ok"
        assert process.attributes["messaging.consumer.group.name"] == GROUP
        names = [span.name for span in sorted(spans.children_of(process), key=lambda span: span.start_time or 0)]
        assert [name for name in dict.fromkeys(names)] == TRANSACTION
    shared = [span for span in spans.named("COMMIT") if (span.attributes or {}).get("promo.batch.shared")]
    assert len(shared) == len({context_of(span).trace_id for span in shared})
    async with bench.database.connection() as conn:
        rows = await conn.fetch("SELECT key, headers FROM outbox WHERE topic = 'point.spent' ORDER BY key")
    for request, row in zip(requests, rows, strict=True):
        [process] = in_trace(spans, request, f"process {bench.topic}")
        assert row["headers"]["traceparent"] == telemetry.traceparent(context_of(process))


async def test_a_poll_links_to_every_record_and_an_empty_one_is_no_span(make_bench: MakeBench, spans: Spans) -> None:
    bench, effects = await make_bench(partitions=1), Effects()
    await send_requests(bench, 1, 2, 3)
    async with running(bench.consumer(effects).run):
        await eventually(lambda: spans.named(f"commit {bench.topic}"))
    polls = spans.named(f"poll {bench.topic}")
    sends = spans.named(f"send {bench.topic}")
    assert sum(len(poll.links) for poll in polls) == 3
    assert {link.context.span_id for poll in polls for link in poll.links} == {
        context_of(send).span_id for send in sends
    }
    for poll in polls:
        assert poll.kind is SpanKind.CLIENT
        assert poll.parent is None
        assert [span.name for span in spans.children_of(poll)] == [f"commit {bench.topic}"]


async def test_a_duplicate_is_no_error(make_bench: MakeBench, spans: Spans) -> None:
    bench, effects = await make_bench(), Effects()
    await send_requests(bench, 1)
    for count in (1, 2):
        async with running(bench.consumer(effects).run):
            await eventually(lambda count=count: len(spans.named(f"process {bench.topic}")) == count)
        async with bench.database.connection() as conn:
            await conn.execute("UPDATE outbox SET sent_at = NULL")
        await bench.relay.relay_once()
    again = spans.named(f"process {bench.topic}")[1]
    assert again.status.status_code is StatusCode.UNSET
    assert again.attributes is not None
    assert again.attributes["promo.duplicate"] is True
    assert effects.committed == [1]


async def test_a_poisonous_record_shows_each_try_and_its_last_one_buries_it(
    make_bench: MakeBench, spans: Spans
) -> None:
    bench = await make_bench()
    [request] = await send_requests(bench, 1)
    async with running(bench.consumer(Effects(poison(1))).run):
        await eventually(bench.letters)
        await eventually(lambda: len(spans.named(f"process {bench.topic}")) == 5)
    tries = in_trace(spans, request, f"process {bench.topic}")
    assert [span.status.status_code for span in tries] == [StatusCode.ERROR] * 5
    assert [(span.attributes or {}).get("promo.attempt", 1) for span in tries] == [1, 2, 3, 4, 5]
    assert all((span.attributes or {})["error.type"] == "RuntimeError" for span in tries)
    last = [span.name for span in spans.children_of(tries[-1])]
    assert last[-5:] == ["BEGIN", "INSERT inbox", "INSERT dead_letters", "INSERT outbox", "COMMIT"]
    await bench.relay.relay_once()
    [dead] = in_trace(spans, request, f"send {bench.topic}.dlq")
    [first] = in_trace(spans, request, f"send {bench.topic}")
    assert dead.parent is not None
    assert dead.parent.span_id == context_of(tries[-1]).span_id
    assert context_of(first).span_id in [link.context.span_id for link in dead.links]


async def test_healthy_records_of_a_halved_poll_are_no_errors(make_bench: MakeBench, spans: Spans) -> None:
    bench, effects = await make_bench(partitions=1), Effects(poison(1))
    requests = await send_requests(bench, 1, 2, 3, 4)
    async with running(bench.consumer(effects).run):
        await eventually(lambda: sorted(effects.committed) == [2, 3, 4])
    for request in requests[1:]:
        runs = in_trace(spans, request, f"process {bench.topic}")
        assert [span.status.status_code for span in runs] == [StatusCode.UNSET] * len(runs)
        assert [(span.attributes or {}).get("promo.batch.try", 1) for span in runs] == list(range(1, len(runs) + 1))


async def test_a_replay_is_a_trace_of_its_own_with_a_link_to_the_first_sending(
    make_bench: MakeBench, spans: Spans
) -> None:
    bench, effects = await make_bench(), Effects(poison(1))
    await send_requests(bench, 1)
    async with running(bench.consumer(effects).run):
        await eventually(bench.letters)
        effects.fail = lambda record: None
        await dead_letters.replay(bench.settings, bench.database, TOPIC, GROUP)
        await bench.relay.relay_once()
        await eventually(lambda: effects.committed == [1])
    [replay] = spans.named("dlq replay")
    first, again = spans.named(f"send {bench.topic}")
    assert again.parent is not None
    assert again.parent.span_id == context_of(replay).span_id
    assert context_of(first).span_id in [link.context.span_id for link in again.links]
    assert (first.attributes or {})["messaging.message.id"] == (again.attributes or {})["messaging.message.id"]


@pytest.mark.parametrize("flag", ["00", None])
async def test_without_a_sampled_request_nothing_is_recorded(
    make_bench: MakeBench, spans: Spans, flag: str | None
) -> None:
    bench, effects = await make_bench(), Effects()
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-{flag}"} if flag else {}
    async with bench.database.transaction() as conn:
        await outbox.add(conn, [make_event("u-1", 1, **trace)])
    await bench.relay.relay_once()
    async with running(bench.consumer(effects).run):
        await eventually(lambda: effects.committed == [1])
    assert spans.named(f"send {bench.topic}") == spans.named(f"process {bench.topic}") == []
