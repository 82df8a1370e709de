"""One command id, one effect, one answer: repeated, raced, under another body, after the stock is gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from infra.errors import KeyReused
from protos.coupon.v1 import coupon_pb2 as pb
from tests.conftest import MakeDatabase
from tests.fixtures.calls import Reply, fingerprint_of, key, refused, rows, user
from tests.fixtures.coupons import Worker, codes, issue_request, policy_request, running_worker, until_somebody_waits
from tests.fixtures.databases import COUPON, INFRA, set_clock

REPEATS = 50
START = datetime.now(UTC) - timedelta(minutes=1)


@pytest.fixture
async def worker(make_database: MakeDatabase, redis_url: str) -> AsyncIterator[Worker]:
    async with running_worker(await make_database(INFRA, COUPON), redis_url) as found:
        yield found


def one_answer(replies: list[Reply]) -> bytes:
    """The bytes that all of them share; all but one are replays."""
    assert Counter(reply.replayed for reply in replies) == {False: 1, True: len(replies) - 1}
    body: bytes
    (body,) = {reply.message.SerializeToString(deterministic=True) for reply in replies}
    return body


async def count(worker: Worker, table: str) -> int:
    (row,) = await rows(worker.settings.database_url, f"SELECT count(*) AS rows FROM {table}")
    return int(row["rows"])


async def test_50_repeats_at_once_of_an_issue_have_one_effect_and_one_answer(worker: Worker) -> None:
    policy = await worker.client.make_policy(limit=5)
    replies = await asyncio.gather(*(worker.client.issue(policy.id, command_id=key("first")) for _ in range(REPEATS)))
    body = one_answer(list(replies))
    assert await count(worker, "coupons") == await count(worker, "outbox") == 1
    await worker.client.use(pb.Coupon.FromString(body).id)
    again = await worker.client.issue(policy.id, command_id=key("first"))  # the coupon has changed, the answer has not
    assert (again.replayed, again.message.SerializeToString(deterministic=True)) == (True, body)


async def test_50_repeats_at_once_of_every_other_verb_have_one_effect(worker: Worker) -> None:
    client = worker.client
    made = await asyncio.gather(
        *(
            client.call("CreateCouponPolicy", policy_request(command_id=key("policy"), start_time=START))
            for _ in range(REPEATS)
        )
    )
    policy = pb.Policy.FromString(one_answer(list(made)))
    coupon = (await client.issue(policy.id)).message
    one_answer(list(await asyncio.gather(*(client.use(coupon.id, command_id=key("use")) for _ in range(REPEATS)))))
    one_answer(
        list(await asyncio.gather(*(client.cancel(coupon.id, command_id=key("cancel")) for _ in range(REPEATS))))
    )
    assert await count(worker, "policies") == await count(worker, "coupons") == 1
    assert await count(worker, "outbox") == 3


async def test_a_repeat_inside_one_batch_is_folded(worker: Worker) -> None:
    policy = await worker.client.make_policy(limit=5)
    request = issue_request(policy.id, command_id=key("twice"))
    results = await worker.client.issue_many([request] * 10)
    assert Counter(result.replayed for result in results) == {False: 1, True: 9}
    assert len({result.coupon.id for result in results}) == 1
    assert await count(worker, "coupons") == 1


async def test_another_body_under_the_same_key_is_refused_in_a_batch_and_later(worker: Worker) -> None:
    policy, other = await worker.client.make_policy(limit=5), await worker.client.make_policy()
    demands = [issue_request(each.id, command_id=key("k")) for each in (policy, other)]
    results = await worker.client.issue_many(demands)
    assert sorted(result.WhichOneof("outcome") or "" for result in results) == ["coupon", "status"]
    for demand, result in zip(demands, results, strict=True):
        if result.HasField("coupon"):
            assert (await worker.client.call("IssueCoupon", demand)).message == result.coupon
        else:
            assert result.status.message == "IDEMPOTENCY_KEY_REUSED"
            assert isinstance(await refused(worker.client.call("IssueCoupon", demand)), KeyReused)
    assert await count(worker, "coupons") == 1


async def test_another_amount_or_coupon_under_the_same_key_is_refused(worker: Worker) -> None:
    held = (await worker.client.issue((await worker.client.make_policy()).id)).message
    await worker.client.use(held.id, 100, command_id=key("u"))
    assert isinstance(await refused(worker.client.use(held.id, 101, command_id=key("u"))), KeyReused)
    await worker.client.cancel(held.id, command_id=key("c"))
    assert isinstance(await refused(worker.client.cancel(held.id + 1, command_id=key("c"))), KeyReused)


async def test_one_key_raced_on_two_policies_makes_one_coupon(worker: Worker) -> None:
    policies = [await worker.client.make_policy() for _ in range(8)]
    for round in range(5):
        outcomes = await codes(
            worker.client.issue(policy.id, f"u-{round}", command_id=key(f"raced {round}")) for policy in policies
        )
        assert Counter(outcomes) == {"OK": 1, "IDEMPOTENCY_KEY_REUSED": len(policies) - 1}
    assert await count(worker, "coupons") == 5


async def test_a_command_that_another_transaction_stores_meanwhile_is_found_by_a_second_run(worker: Worker) -> None:
    policy = await worker.client.make_policy()
    coupon = (await worker.client.issue(policy.id)).message
    async with worker.database.transaction() as conn:
        await conn.execute(
            "INSERT INTO commands SELECT $1, verb, $2, answer, NULL, created_at FROM commands WHERE verb = 'issue'",
            UUID(key("raced")),
            fingerprint_of("another demand"),
        )
        waiting = asyncio.create_task(refused(worker.client.use(coupon.id, command_id=key("raced"))))
        await until_somebody_waits(worker)
    assert isinstance(await waiting, KeyReused)
    assert (await worker.client.get(coupon.id)).status == pb.COUPON_STATUS_AVAILABLE


async def test_a_replay_answers_after_the_stock_is_gone_and_after_the_end(worker: Worker) -> None:
    policy = await worker.client.make_policy(1)
    first = await worker.client.issue(policy.id, "winner", command_id=key("win"))
    assert (await refused(worker.client.issue(policy.id, "loser"))).code == "SOLD_OUT"
    after = [await worker.client.issue(policy.id, "winner", command_id=key("win")) for _ in range(3)]
    await set_clock(worker.settings.database_url, "clock_timestamp() + interval '2 hours'")
    assert (await refused(worker.client.issue(policy.id, "loser"))).code == "NOT_ACTIVE"
    one_answer([first, *after, await worker.client.issue(policy.id, "winner", command_id=key("win"))])


async def test_final_refusals_are_stored_for_a_key_and_answer_for_ever(worker: Worker) -> None:
    client = worker.client
    policy = await client.make_policy(least=10_000)
    coupon = (await client.issue(policy.id)).message
    for _ in range(2):
        again = await refused(client.issue(policy.id, command_id=key("again")))
        assert (again.code, again.facts) == ("ALREADY_ISSUED", {"coupon_id": str(coupon.id)})
        small = await refused(client.use(coupon.id, 5, command_id=key("small")))
        assert (small.code, small.facts) == (
            "MINIMUM_ORDER_AMOUNT",
            {"available": 5, "requested": 10_000, "missing": 9_995},
        )
    assert isinstance(await refused(client.use(coupon.id, 6, command_id=key("small"))), KeyReused)
    stored = await rows(
        worker.settings.database_url, "SELECT verb FROM commands WHERE refusal IS NOT NULL ORDER BY verb"
    )
    assert [row["verb"] for row in stored] == ["issue", "use"]


async def test_a_final_refusal_without_a_key_is_not_stored(worker: Worker) -> None:
    policy = await worker.client.make_policy()
    await worker.client.issue(policy.id)
    assert (await refused(worker.client.issue(policy.id))).code == "ALREADY_ISSUED"
    assert await rows(worker.settings.database_url, "SELECT 1 FROM commands WHERE refusal IS NOT NULL") == []


async def test_refusals_that_can_turn_are_judged_anew_under_the_same_key(worker: Worker) -> None:
    client, url = worker.client, worker.settings.database_url
    gone, early = (
        await client.make_policy(1),
        await client.make_policy(start_time=datetime.now(UTC) + timedelta(hours=1)),
    )
    await client.issue(gone.id, "winner")
    assert (await refused(client.issue(gone.id, "u-1", command_id=key("gone")))).code == "SOLD_OUT"
    assert (await refused(client.issue(early.id, command_id=key("early")))).code == "NOT_ACTIVE"
    coupon = (await client.issue((await client.make_policy()).id)).message
    assert (await refused(client.cancel(coupon.id, command_id=key("cancel")))).code == "COUPON_NOT_USED"
    assert (await refused(client.use(coupon.id, caller=user("u-2"), command_id=key("mine")))).code == "FORBIDDEN"

    await rows(url, "UPDATE policies SET total_quantity = 2 WHERE id = $1", gone.id)
    assert (await client.issue(gone.id, "u-1", command_id=key("gone"))).message.user_id == "u-1"
    await client.use(coupon.id)
    assert (await client.cancel(coupon.id, command_id=key("cancel"))).message.status == pb.COUPON_STATUS_CANCELED
    await set_clock(url, "clock_timestamp() + interval '90 minutes'")
    assert not (await client.issue(early.id, command_id=key("early"))).replayed


async def test_a_fingerprint_of_another_form_is_not_compared(worker: Worker) -> None:
    policy = await worker.client.make_policy()
    first = await worker.client.issue(policy.id, command_id=key("deployed"))
    request = issue_request(policy.id, command_id=key("deployed"))
    request.fingerprint = b"\x02" + fingerprint_of("a new way to write it")[1:]
    again = await worker.client.call("IssueCoupon", request)
    assert (again.replayed, again.message) == (True, first.message)


@pytest.mark.parametrize("verb", ["issue", "policy"])
async def test_when_the_commands_are_forgotten_the_row_is_the_last_word(worker: Worker, verb: str) -> None:
    """The row as it is now, also where the stock is gone; another demand under the key is refused."""
    client = worker.client
    made = await client.call("CreateCouponPolicy", policy_request(1, command_id=key("policy"), start_time=START))
    policy = made.message
    first = (await client.issue(policy.id, command_id=key("issue"))).message
    await client.use(first.id)
    await rows(worker.settings.database_url, "DELETE FROM commands")
    again: Any
    if verb == "issue":
        again = await client.issue(policy.id, command_id=key("issue"))
        assert (again.replayed, again.message.id, again.message.status) == (True, first.id, pb.COUPON_STATUS_USED)
        other = await refused(client.issue(policy.id, "u-2", command_id=key("issue")))
        assert isinstance(other, KeyReused)
    else:
        again = await client.call("CreateCouponPolicy", policy_request(1, command_id=key("policy"), start_time=START))
        assert (again.replayed, again.message.id, again.message.issued_quantity) == (True, policy.id, 1)
    assert await count(worker, "coupons") == await count(worker, "policies") == 1
