"""What a trace shows of a batch: each sampled request its own span, the statements under the leader's."""

import asyncio
from contextvars import Context

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from infra import telemetry
from infra.errors import NotFound
from infra.settings import WorkerSettings
from tests.conftest import MakeDatabase
from tests.fixtures.batches import LOCK, Shelves, shelves
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually

BATCH = "batch test.shelf"


async def settings_for(make_database: MakeDatabase, **limits: object) -> WorkerSettings:
    return WorkerSettings.model_validate({"database_url": await make_database(), **limits})


async def sampled(made: Shelves, name: str, shelf: int = 1) -> int:
    with telemetry.root(name):
        return await made.take(shelf, name)


def parent_name(spans: Spans, span: ReadableSpan) -> str:
    parents = {each.context.span_id: each.name for each in spans.finished() if each.context is not None}
    return parents[span.parent.span_id] if span.parent is not None else ""


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_lone_request_reads_from_its_story_to_the_commit(make_database: MakeDatabase, spans: Spans) -> None:
    async with shelves(await settings_for(make_database)) as made:
        await sampled(made, "request")
    assert spans.names() == ["BEGIN", "SELECT shelves", "INSERT takers", "COMMIT", BATCH, "request"]
    batch = spans.named(BATCH)[0]
    assert parent_name(spans, batch) == "request"
    assert [span.name for span in spans.children_of(batch)] == ["BEGIN", "SELECT shelves", "INSERT takers", "COMMIT"]
    assert attributes(batch)["promo.batch.role"] == "leader"
    assert attributes(batch)["promo.batch.size"] == 1
    assert attributes(batch)["promo.outcome"] == "ok"
    assert attributes(batch)["promo.operation"] == BATCH


async def test_members_have_their_own_span_and_a_link_to_the_leader(make_database: MakeDatabase, spans: Spans) -> None:
    async with shelves(await settings_for(make_database)) as made:
        await asyncio.gather(made.take(), sampled(made, "leader"), sampled(made, "member"), made.take())
    assert made.sizes == [4]
    leader, member = spans.named(BATCH)
    assert [parent_name(spans, span) for span in (leader, member)] == ["leader", "member"]
    assert leader.context is not None
    assert [link.context.span_id for link in member.links] == [leader.context.span_id]
    assert dict(member.links[0].attributes or {}) == {"promo.link": "batch"}
    assert attributes(member)["promo.batch.role"] == "member"
    assert attributes(member)["promo.batch.size"] == 4
    assert not leader.links
    assert spans.children_of(member) == []
    assert {parent_name(spans, span) for span in spans.named("COMMIT")} == {BATCH}
    assert [span.name for span in spans.children_of(leader)][-1] == "COMMIT"


async def test_a_refused_member_is_no_error(make_database: MakeDatabase, spans: Spans) -> None:
    async with shelves(await settings_for(make_database)) as made:
        with pytest.raises(NotFound), telemetry.root("refused"):
            await made.refuse(NotFound("Shelf", 1))
    batch = spans.named(BATCH)[0]
    assert attributes(batch)["promo.outcome"] == "refused"
    assert attributes(batch)["promo.refusal.code"] == "NOT_FOUND"
    assert batch.status.is_unset


async def test_a_run_again_is_a_new_span_and_the_story_stays_unset(make_database: MakeDatabase, spans: Spans) -> None:
    async with shelves(await settings_for(make_database, lock_timeout_ms=30)) as made:
        async with made.database.transaction() as conn:
            await conn.fetch(LOCK, [1])
            taking = asyncio.gather(sampled(made, "leader"), sampled(made, "member"))
            await eventually(lambda: len(made.sizes) == 2)
        await taking
    of_leader = [span for span in spans.named(BATCH) if parent_name(spans, span) == "leader"]
    of_member = [span for span in spans.named(BATCH) if parent_name(spans, span) == "member"]
    assert len(of_leader) == len(of_member) >= 2
    assert [attributes(span).get("promo.batch.try") for span in of_leader[:2]] == [None, 2]
    assert [attributes(span).get("promo.batch.try") for span in of_member[:2]] == [None, 2]
    assert attributes(of_leader[0])["error.type"] == "55P03"
    assert not of_leader[0].status.is_ok
    assert not of_leader[0].status.is_unset
    assert all(span.status.is_unset for span in (*of_member, of_leader[-1], *spans.named("leader")))
    red = [span for span in spans.named("SELECT shelves") if not span.status.is_unset]
    assert {parent_name(spans, span) for span in red} == {BATCH}


async def test_an_unsampled_batch_makes_no_span(make_database: MakeDatabase, spans: Spans) -> None:
    async with shelves(await settings_for(make_database)) as made:
        await asyncio.gather(made.take(), made.take())
    assert spans.finished() == []


async def test_lanes_that_began_inside_a_request_do_not_keep_its_span(
    make_database: MakeDatabase, spans: Spans
) -> None:
    with telemetry.root("starter"):
        opened = shelves(await settings_for(make_database))
        made = await opened.__aenter__()
    spans.exporter.clear()
    await asyncio.create_task(made.take(), context=Context())
    assert spans.finished() == []
    await opened.__aexit__(None, None, None)
