"""Posting claims to the journal: many claims, one transaction, in arrival order.

`Ledger` is the way in for requests: claims wait in the lane of their user and are posted together. `post` is the part
that a poll of events runs inside its own transaction.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from infra import commands, outbox, postgres, telemetry
from infra.batch import Batch
from infra.commands import Answer, Known, Outcome
from infra.errors import Refused
from infra.postgres import Conn, Database
from point import events, metrics, store
from point.cache import Cache
from point.messages import transaction_message
from point.rules import AlreadyCanceled, Claim, InsufficientPoints, Posting, Transaction, TransactionType, decide_all
from point.settings import PointSettings

# A violation that slipped past the rules is still the refusal its constraint stands for.
_REFUSAL_OF_CONSTRAINT: dict[str, type[Refused]] = {
    "balances_not_negative": InsufficientPoints,
    "journal_reverses_key": AlreadyCanceled,
}
# Another transaction was faster: the same command for another user, or a row that was no account yet when we locked.
# The facts now show it.
_OVERTAKEN = ("journal_command_key", "journal_user_seq_key")


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of the claims, in their order, and the rows that were made."""

    outcomes: list[Answer | Exception]
    rows: list[Transaction]


class Ledger:
    """Posts requests' claims, those of one user's lane together."""

    def __init__(self, database: Database, cache: Cache, relay: outbox.Relay, settings: PointSettings) -> None:
        self._database = database
        self._cache = cache
        self._relay = relay
        self.batch: Batch[Claim, Answer] = Batch("point.balance", self._post_batch, settings=settings)

    async def post(self, claim: Claim, *, deadline: float) -> Answer:
        """The journal row as a serialized Transaction. `deadline` is an instant of the event loop's clock.

        :raises InsufficientPoints: :raises WouldGoNegative: :raises AlreadyCanceled: :raises NotFound: as the rules say
        :raises Overloaded: :raises Unavailable: :raises DeadlineExceeded: when it could not be decided in time
        """
        word = claim.type.value.lower()
        carrier = telemetry.inject()
        claim = replace(claim, traceparent=carrier.get("traceparent"), tracestate=carrier.get("tracestate"))
        try:
            answer = await self._submit(claim, deadline)
        except Refused as refusal:
            metrics.count(word, refusal.code.lower())
            raise
        except Exception as error:
            refused = _REFUSAL_OF_CONSTRAINT.get(postgres.constraint(error) or "")
            metrics.count(word, refused.code.lower() if refused else "error")
            if refused:
                raise refused() from error
            raise
        metrics.count(word, "replayed" if answer.replayed else "done")
        return answer

    async def _submit(self, claim: Claim, deadline: float) -> Answer:
        lane = lane_of(claim.user_id)
        try:
            return await self.batch.submit(lane, claim, deadline=deadline)
        except Exception as error:
            if postgres.constraint(error) not in _OVERTAKEN:
                raise
        return await self.batch.submit(lane, claim, deadline=deadline)

    async def _post_batch(self, claims: Sequence[Claim]) -> list[Answer | Exception]:
        async with self._database.transaction() as conn:
            posted = await post(conn, claims)
            await self._cache.bury(posted.rows)
        self._cache.publish(posted.rows)
        self._relay.wake()
        return posted.outcomes


def lane_of(user_id: str) -> int:
    """The lane key of a user: the same for every instance, unlike `hash`."""
    return zlib.crc32(user_id.encode())


async def post(conn: Conn, claims: Sequence[Claim], *, remembered: bool = True) -> Posted:
    """Lock, facts, decide, write. The caller opened the transaction and commits it.

    `remembered`: the answers are kept for those who ask again. An event never asks; its journal row is its memory.
    """
    first: dict[UUID, Claim] = {}
    for claim in claims:
        first.setdefault(claim.command.command_id, claim)
    users = sorted({claim.user_id for claim in claims})
    earners = sorted({claim.user_id for claim in claims if claim.type is TransactionType.EARNED})
    await store.lock_accounts(conn, users, earners=earners)
    at, known = await commands.read_facts(conn, list(first))
    made = await store.read_made(conn, [command_id for command_id in first if command_id not in known])
    fresh = [claim for claim in first.values() if claim.command.command_id not in known | made]
    accounts = await store.read_accounts(conn, users)
    originals = await store.read_originals(
        conn, [claim.original_transaction_id for claim in fresh if claim.original_transaction_id is not None]
    )
    decisions = decide_all(accounts, fresh, originals)
    postings = [decision for decision in decisions if isinstance(decision, Posting)]
    rows = await store.insert_transactions(conn, postings, at) if postings else []
    outcomes = _decided(fresh, decisions, rows)
    if remembered:
        await commands.save(conn, outcomes)
    await outbox.add(conn, [events.posted(row, posting.claim) for row, posting in zip(rows, postings, strict=True)])
    new = {outcome.command.command_id: outcome for outcome in outcomes}
    return Posted([_answer(claim, first, new, known, made) for claim in claims], rows)


def _decided(
    fresh: Sequence[Claim], decisions: Sequence[Posting | Refused], rows: Sequence[Transaction]
) -> list[Outcome]:
    made = iter(rows)
    return [
        Outcome(claim.command, claim.type.value.lower(), refusal=decision)
        if isinstance(decision, Refused)
        else Outcome(claim.command, claim.type.value.lower(), answer=_body(next(made)))
        for claim, decision in zip(fresh, decisions, strict=True)
    ]


def _answer(
    claim: Claim,
    first: Mapping[UUID, Claim],
    new: Mapping[UUID, Outcome],
    known: Mapping[UUID, Known],
    made: Mapping[UUID, Transaction],
) -> Answer | Exception:
    """What this claim is told: the outcome it made, or the one its command id already has."""
    command_id = claim.command.command_id
    if command_id in made:
        return Answer(_body(made[command_id]), replayed=True)
    try:
        if command_id in known:
            return Answer(commands.replay(known[command_id], claim.command), replayed=True)
        outcome = new[command_id]
        if claim is first[command_id]:
            return outcome.refusal or Answer(outcome.answer or b"", replayed=False)
        return commands.repeat(outcome, claim.command)
    except Refused as refusal:
        return refusal


def _body(row: Transaction) -> bytes:
    return transaction_message(row).SerializeToString()
