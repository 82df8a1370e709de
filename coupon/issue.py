"""A user gets a coupon: an early no where the view and the database agree, else a place in the policy's lane."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from coupon import events, messages, metrics, rules, store
from coupon.gate import Gate
from coupon.rules import Claim, Coupon, Grant, Policy, Repeat
from coupon.settings import CouponSettings
from infra import commands, outbox, postgres, telemetry
from infra.batch import Batch
from infra.caller import Command
from infra.commands import Answer, Known, Outcome
from infra.errors import KeyReused, Refused
from infra.postgres import Conn, Database
from infra.telemetry import names

VERB = "issue"


class Issuing:
    """Issues coupons. `batch` decides, one transaction after the other in each lane; `refusals` reads early noes.

    Both are background tasks of the process.
    """

    def __init__(self, database: Database, gate: Gate, relay: outbox.Relay, settings: CouponSettings) -> None:
        self._database, self._gate, self._relay = database, gate, relay
        self.batch: Batch[Claim, Answer] = Batch("coupon.policy", self._issue, settings=settings)
        self.refusals: Batch[Claim, None] = Batch(
            "coupon.refusal", self._refuse, settings=settings, lanes_max=settings.refusal_lanes_max
        )

    async def issue(self, *, command: Command, user_id: str, policy_id: int, deadline: float) -> Answer:
        """A coupon under the policy, as a serialized Coupon. `deadline` is an instant of the loop's clock.

        :raises NotFound: :raises Forbidden: :raises ValidationFailed: :raises KeyReused: as for any demand
        :raises NotActive: :raises SoldOut: :raises AlreadyIssued: :raises UserLimit: as the rules say
        :raises Overloaded: :raises Unavailable: :raises DeadlineExceeded: when it could not be decided in time
        """
        with telemetry.with_span("coupon.issue", attributes={metrics.POLICY_ID: policy_id}) as span:
            answer = await metrics.ISSUES.counted(self._take(command, user_id, policy_id, deadline))
            if span.is_recording():
                span.set_attributes(names.user(user_id))
                span.add_event("coupon.issued", {metrics.COUPON_ID: messages.coupon_id(answer.body)})
        return answer

    async def _take(self, command: Command, user_id: str, policy_id: int, deadline: float) -> Answer:
        rules.check_user(user_id)
        rules.check_may_claim(command.caller, user_id)
        carrier = telemetry.inject()
        claim = Claim(command, policy_id, user_id, carrier.get("traceparent"), carrier.get("tracestate"))
        if await self._gate.is_empty(policy_id):
            await self._ask_early(claim, deadline)
        try:
            return await self.batch.submit(policy_id, claim, deadline=deadline)
        except Refused:
            raise
        except Exception as error:
            broken = postgres.constraint(error)
            if broken == store.MADE_BEFORE:  # the same command under another policy was faster: the facts now show it
                return await self.batch.submit(policy_id, claim, deadline=deadline)
            if broken == store.TOTAL:
                raise rules.SoldOut() from error
            if broken in store.LIMITS:
                raise await self._limit_of(policy_id) from error
            raise

    async def _ask_early(self, claim: Claim, deadline: float) -> None:
        try:
            await self.refusals.submit(claim.policy_id, claim, deadline=deadline)
        except rules.SoldOut:
            self._gate.count("refused")
            raise
        self._gate.count("overruled")

    async def _refuse(self, claims: Sequence[Claim]) -> list[Exception | None]:
        """One read, begun after all these claims arrived: SoldOut for whom the database agrees, else nothing."""
        async with self._database.connection() as conn:
            policies, known, at = await store.read_refusal_facts(
                conn, {claim.policy_id for claim in claims}, [claim.command.command_id for claim in claims]
            )
        for policy in policies.values():
            self._gate.publish(policy)
        return [rules.refuse_early(policies.get(claim.policy_id), known, claim, at) for claim in claims]

    async def _issue(self, claims: Sequence[Claim]) -> list[Answer | Exception]:
        """One batch, one transaction: lock, facts, decide, write. Nobody is answered before the commit."""
        demand = Counter(claim.policy_id for claim in claims)
        async with self._database.transaction() as conn:
            policies = await store.lock_policies(conn, demand)
            at, known = await commands.read_facts(conn, [claim.command.command_id for claim in claims])
            ids = sum(min(demand[policy_id], policy.remaining) for policy_id, policy in policies.items())
            facts = await store.read_claim_facts(conn, claims, ids=ids)
            made = await _read_made(conn, facts.made, known, at)
            settled = known.keys() | made.keys()
            fresh = [claim for claim in claims if claim.command.command_id not in settled]
            decisions = rules.decide(policies, facts.owned, iter(facts.ids), fresh, at)
            outcomes, issued = await _write(conn, fresh, decisions, at)
        for policy_id, policy in policies.items():
            self._gate.publish(Policy(policy.terms, policy.issued_quantity + issued[policy_id]))
        if issued:
            self._relay.wake()
        judged = iter(decisions)
        return [
            _told_before(claim, known, made)
            if claim.command.command_id in settled
            else _told(claim, next(judged), outcomes)
            for claim in claims
        ]

    async def _limit_of(self, policy_id: int) -> Refused:
        async with self._database.connection() as conn:
            listing = await store.read_listing(conn, policy_id)
        is_one = listing is not None and listing.policy.terms.per_user_limit == 1
        return rules.AlreadyIssued() if is_one else rules.UserLimit(available=0, requested=1, missing=1)


async def _read_made(
    conn: Conn, made: Mapping[UUID, int], known: Mapping[UUID, Known], at: datetime
) -> dict[UUID, Coupon]:
    """Coupons of commands that the commands table has forgotten, as they are now: the rows are the last word."""
    forgotten = {command_id: coupon_id for command_id, coupon_id in made.items() if command_id not in known}
    if not forgotten:
        return {}
    coupons = await store.read_coupons(conn, forgotten.values())
    return {command_id: rules.seen_at(coupons[coupon_id], at) for command_id, coupon_id in forgotten.items()}


async def _write(
    conn: Conn, claims: Sequence[Claim], decisions: Sequence[Grant | Repeat | Exception], at: datetime
) -> tuple[dict[UUID, Outcome], Counter[int]]:
    """Writes what was decided. The outcomes by command id, and how many coupons were issued by policy id."""
    grants = [each for each in decisions if isinstance(each, Grant)]
    issued = Counter(each.claim.policy_id for each in grants)
    outcomes: dict[UUID, Outcome] = {}
    told = []
    for claim, decision in zip(claims, decisions, strict=True):
        command = claim.command
        if isinstance(decision, Grant):
            message = messages.coupon_message(decision.coupon)
            outcomes[command.command_id] = Outcome(command, VERB, answer=message.SerializeToString())
            told.append(events.coupon_entered(message, claim))
        elif isinstance(decision, Refused):
            outcomes[command.command_id] = Outcome(command, VERB, refusal=decision)
    if grants:
        await store.insert_coupons(conn, grants, at)
    await commands.save(conn, list(outcomes.values()))
    if grants:
        await outbox.add(conn, told, at)
        await store.add_issued(conn, issued)
    return outcomes, issued


def _told(claim: Claim, decision: Grant | Repeat | Exception, outcomes: Mapping[UUID, Outcome]) -> Answer | Exception:
    if isinstance(decision, Exception):
        return decision
    outcome = outcomes[claim.command.command_id]
    if isinstance(decision, Grant):
        return Answer(outcome.answer or b"", replayed=False)
    try:
        return commands.repeat(outcome, claim.command)
    except Refused as refusal:
        return refusal


def _told_before(claim: Claim, known: Mapping[UUID, Known], made: Mapping[UUID, Coupon]) -> Answer | Exception:
    command_id = claim.command.command_id
    if command_id in known:
        try:
            return Answer(commands.replay(known[command_id], claim.command), replayed=True)
        except Refused as refusal:
            return refusal
    coupon = made[command_id]
    if (coupon.terms.id, coupon.user_id) != (claim.policy_id, claim.user_id):
        return KeyReused()
    return Answer(messages.coupon_message(coupon).SerializeToString(), replayed=True)
