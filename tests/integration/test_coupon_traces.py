"""What a sampled request's trace shows of the coupon service, and under whom its event hangs."""

from collections.abc import AsyncIterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from infra import telemetry
from tests.conftest import MakeDatabase
from tests.fixtures.calls import refused, rows
from tests.fixtures.coupons import Worker, issue_request, running_worker
from tests.fixtures.databases import COUPON, INFRA, set_clock
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually

UNARY = "promo.coupon.v1.CouponService/IssueCoupon"


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url, gate_timeout_seconds=2.0) as found:
        yield found


def names_of(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in sorted(spans, key=lambda span: span.start_time or 0)]


def only(spans: Spans, name: str) -> ReadableSpan:
    (span,) = spans.named(name)
    return span


async def traceparents(worker: Worker, topic: str) -> dict[str, str]:
    """Of the outbox rows, by the user they are about."""
    told = await rows(
        worker.settings.database_url,
        "SELECT convert_from(payload, 'UTF8')::jsonb ->> 'userId' AS user_id, headers ->> 'traceparent' AS traceparent"
        " FROM outbox WHERE topic = $1",
        topic,
    )
    return {row["user_id"]: row["traceparent"] for row in told}


async def test_an_issue_shows_each_step_from_the_gate_to_the_commit(worker: Worker, spans: Spans) -> None:
    policy = await worker.client.make_policy()
    spans.exporter.clear()
    coupon = (await worker.client.issue(policy.id)).message
    await eventually(lambda: spans.named("EVALSHA set_view"))
    story = only(spans, "coupon.issue")
    assert only(spans, UNARY) in [span for span in spans.finished() if story in spans.children_of(span)]
    assert names_of(spans.children_of(story)) == ["HMGET coupon:inventory", "batch coupon.policy"]
    batch = only(spans, "batch coupon.policy")
    assert names_of(spans.children_of(batch)) == [
        *("BEGIN", "SELECT policies", "SELECT commands", "SELECT coupons"),
        *("INSERT coupons", "INSERT commands", "INSERT outbox", "UPDATE policies", "COMMIT", "EVALSHA set_view"),
    ]
    (event,) = story.events
    assert (event.name, dict(event.attributes or {})) == ("coupon.issued", {"promo.coupon.id": coupon.id})
    assert story.attributes is not None
    assert (story.attributes["promo.policy.id"], story.attributes["user.id"]) == (policy.id, "u-1")
    assert {span.attributes["promo.operation"] for span in spans.children_of(batch) if span.attributes} >= {
        *("pg.query SELECT coupon_policy", "pg.query INSERT coupon", "pg.query UPDATE coupon_policy"),
    }
    assert await traceparents(worker, "coupon.issued") == {"u-1": telemetry.traceparent(story.context)}


async def test_each_event_of_a_batch_hangs_under_its_own_request(worker: Worker, spans: Spans) -> None:
    policy = await worker.client.make_policy()
    await worker.client.issue_many(issue_request(policy.id, f"u-{number}") for number in range(8))
    stories = {
        str(story.attributes["user.id"]): telemetry.traceparent(story.context)
        for story in spans.named("coupon.issue")
        if story.attributes
    }
    assert len(set(stories.values())) == 8
    assert await traceparents(worker, "coupon.issued") == stories


async def test_a_refusal_is_no_red_span(worker: Worker, spans: Spans) -> None:
    policy = await worker.client.make_policy(1)
    await worker.client.issue(policy.id, "winner")
    spans.exporter.clear()
    await refused(worker.client.issue(policy.id, "loser"))
    for name in (UNARY, "coupon.issue"):
        span = only(spans, name)
        assert span.status.status_code is StatusCode.UNSET
        assert span.attributes is not None
        assert span.attributes["promo.refusal.code"] == "SOLD_OUT"
        assert span.events == ()


async def test_a_use_shows_lock_facts_and_writes_and_tells_under_its_story(worker: Worker, spans: Spans) -> None:
    coupon = (await worker.client.issue((await worker.client.make_policy()).id)).message
    spans.exporter.clear()
    await worker.client.use(coupon.id)
    story = only(spans, "coupon.use")
    assert names_of(spans.children_of(story)) == [
        *("BEGIN", "SELECT coupons", "SELECT commands", "UPDATE coupons", "INSERT commands", "INSERT outbox", "COMMIT"),
    ]
    assert await traceparents(worker, "coupon.used") == {"u-1": telemetry.traceparent(story.context)}


async def test_a_sweep_has_a_trace_of_its_own_only_when_something_is_due(worker: Worker, spans: Spans) -> None:
    await worker.client.issue((await worker.client.make_policy()).id)
    spans.exporter.clear()
    await worker.expiry.run()
    assert set(spans.names()) <= {"EVALSHA set_view"}  # of the issue before
    await set_clock(worker.settings.database_url, "clock_timestamp() + interval '2 hours'")
    await worker.expiry.run()
    root = only(spans, "expire coupons")
    assert root.parent is None
    assert names_of(spans.children_of(root)) == [
        *("lock acquire coupon:policy", "BEGIN", "SELECT clock", "SELECT coupons", "UPDATE coupons", "INSERT outbox"),
        *("COMMIT", "lock release coupon:policy"),
    ]
    assert await traceparents(worker, "coupon.expired") == {"u-1": telemetry.traceparent(root.context)}
