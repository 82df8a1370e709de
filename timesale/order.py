"""A user buys units of a sale: an early no where the view and the database agree, else a place in the sale's lane."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from infra import commands, outbox, postgres, telemetry
from infra.batch import Batch
from infra.caller import Command
from infra.commands import Answer, Known, Outcome
from infra.errors import KeyReused, Refused
from infra.events import Event
from infra.postgres import Conn, Database
from infra.telemetry import names
from timesale import events, messages, metrics, rules, store
from timesale.gate import Gate
from timesale.rules import Claim, Listing, Order, Purchase, Sale, SaleStatus, SoldOut
from timesale.settings import TimesaleSettings

VERB = "order"


class Orders:
    """Takes orders. `batch` decides them, `refusals` asks the database for early noes: two background tasks."""

    def __init__(self, database: Database, gate: Gate, relay: outbox.Relay, settings: TimesaleSettings) -> None:
        self._database, self._gate, self._relay = database, gate, relay
        self.batch: Batch[Claim, Answer] = Batch("timesale.sale", self._sell, settings=settings)
        self.refusals: Batch[Claim, None] = Batch(
            "timesale.refusal", self._refuse, settings=settings, lanes_max=settings.refusal_lanes_max
        )

    async def place(
        self, *, command: Command, time_sale_id: int, user_id: str, quantity: int, deadline: float
    ) -> Answer:
        """Buys `quantity` units: the order as a serialized Order. `deadline` is an instant of the loop's clock.

        :raises NotFound: :raises Forbidden: :raises ValidationFailed: :raises KeyReused: as for any demand
        :raises NotActive: :raises SoldOut: :raises InsufficientStock: :raises UserLimit: as the rules say
        :raises Overloaded: :raises Unavailable: :raises DeadlineExceeded: when it could not be decided in time
        """
        with telemetry.with_span("order.create", attributes={metrics.SALE_ID: time_sale_id}) as span:
            answer = await metrics.ORDERS.counted(self._take(command, time_sale_id, user_id, quantity, deadline))
            if span.is_recording():
                span.set_attributes(names.user(user_id))
                span.add_event("order.created", {metrics.ORDER_ID: messages.order_id(answer.body)})
        return answer

    async def _take(self, command: Command, sale_id: int, user_id: str, quantity: int, deadline: float) -> Answer:
        rules.check_order(user_id, quantity)
        rules.check_may_order(command.caller, user_id)
        carrier = telemetry.inject()
        claim = Claim(command, sale_id, user_id, quantity, carrier.get("traceparent"), carrier.get("tracestate"))
        if await self._gate.too_few(sale_id, quantity):
            await self._ask_early(claim, deadline)
        try:
            return await self.batch.submit(sale_id, claim, deadline=deadline)
        except Refused:
            raise
        except Exception as error:
            broken = postgres.constraint(error) or ""
            if broken == store.MADE_BEFORE:
                return await self._made_before(claim)
            if broken in store.REFUSALS:
                raise store.REFUSALS[broken]() from error
            raise

    async def _ask_early(self, claim: Claim, deadline: float) -> None:
        """The gate's view says too few. :raises SoldOut: the database says so too."""
        try:
            await self.refusals.submit(claim.time_sale_id, claim, deadline=deadline)
        except SoldOut:
            self._gate.count("refused")
            raise
        self._gate.count("overruled")

    async def _refuse(self, claims: Sequence[Claim]) -> list[Exception | None]:
        """One read, begun after all these claims arrived: SoldOut for whom the database agrees, else nothing."""
        async with self._database.connection() as conn:
            sales, known, at = await store.read_refusal_facts(
                conn, {claim.time_sale_id for claim in claims}, [claim.command.command_id for claim in claims]
            )
            noes = [rules.refuse_early(sales.get(claim.time_sale_id), known, claim, at) for claim in claims]
            made = await store.read_made_orders(conn, _refused_by_key(claims, noes))
        for sale in sales.values():
            self._gate.publish(sale)
        return [None if claim.command.command_id in made else no for claim, no in zip(claims, noes, strict=True)]

    async def _sell(self, claims: Sequence[Claim]) -> list[Answer | Exception]:
        """One batch, one transaction: lock, facts, decide, write."""
        async with self._database.transaction() as conn:
            sales = await store.lock_sales(conn, {claim.time_sale_id for claim in claims})
            units = await store.lock_buyers(conn, claims)
            at, known = await commands.read_facts(conn, [claim.command.command_id for claim in claims])
            fresh = [claim for claim in claims if claim.command.command_id not in known]
            decisions, moved = rules.decide(sales, units, fresh, at)
            bodies = await _write(conn, sales, moved, decisions, at)
            made = await store.read_made_orders(conn, _refused_by_key(fresh, decisions))
        for sale in {**sales, **moved}.values():
            self._gate.publish(sale)
        if bodies:
            self._relay.wake()
        judged = iter(decisions)
        return [
            _replay(known[claim.command.command_id], claim.command)
            if claim.command.command_id in known
            else _outcome(claim, next(judged), bodies, made)
            for claim in claims
        ]

    async def _made_before(self, claim: Claim) -> Answer:
        """Another row took this command while it was decided; or the commands table has forgotten it.

        The stored answer if there is one, else the order as it is now: it is the last word.
        """
        command_id = claim.command.command_id
        async with self._database.connection() as conn:
            _, known = await commands.read_facts(conn, [command_id])
            made = await store.read_made_orders(conn, [command_id])
        if command_id in known:
            return Answer(commands.replay(known[command_id], claim.command), replayed=True)
        outcome = _as_made(made.get(command_id), claim)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def _write(
    conn: Conn,
    sales: Mapping[int, Sale],
    moved: Mapping[int, Sale],
    decisions: Sequence[Purchase | Exception],
    at: datetime,
) -> dict[UUID, bytes]:
    """Writes what was decided; the answers by command id."""
    purchases = list({id(each): each for each in decisions if isinstance(each, Purchase)}.values())
    if not purchases:
        return {}
    orders = await store.insert_orders(conn, purchases, at)
    bodies = {command_id: messages.order_message(order).SerializeToString() for command_id, order in orders.items()}
    await commands.save(
        conn, [Outcome(each.claim.command, VERB, answer=bodies[each.claim.command.command_id]) for each in purchases]
    )
    told = [events.order_created(orders[each.claim.command.command_id], each.claim) for each in purchases]
    for sale_id, after in moved.items():
        if after.status is not sales[sale_id].status:
            told += await _passages(conn, sales[sale_id], after, purchases)
    await outbox.add(conn, told, at)
    await store.add_buyers(conn, purchases, sales)
    await store.update_sales(conn, list(moved.values()))
    return bodies


async def _passages(conn: Conn, before: Sale, after: Sale, purchases: Sequence[Purchase]) -> list[Event]:
    """What the sale's change of status tells: its first buyer found it started, its last one left it sold out."""
    product = await store.read_product(conn, before.product_id)
    assert product is not None, "sales_product_fkey"
    claims = [each.claim for each in purchases if each.claim.time_sale_id == before.id]
    told = []
    for status in rules.passages(before.status, after.status):
        sale = after if status is after.status else replace(before, status=status)
        cause = claims[-1] if status is SaleStatus.SOLD_OUT else claims[0]
        told.append(events.sale_entered(Listing(sale, product), cause))
    return told


def _refused_by_key(claims: Sequence[Claim], decisions: Sequence[object]) -> list[UUID]:
    """Refused commands that a client named by a key: one may be so old that only the order it made remembers it."""
    return [
        claim.command.command_id
        for claim, decision in zip(claims, decisions, strict=True)
        if claim.command.keyed and isinstance(decision, Exception)
    ]


def _as_made(order: Order | None, claim: Claim) -> Answer | Exception:
    """The order as it is now, for whoever asked for just this one."""
    demand = (claim.time_sale_id, claim.user_id, claim.quantity)
    if order is None or (order.time_sale_id, order.user_id, order.quantity) != demand:
        return KeyReused()
    return Answer(messages.order_message(order).SerializeToString(), replayed=True)


def _outcome(
    claim: Claim, decision: Purchase | Exception, bodies: Mapping[UUID, bytes], made: Mapping[UUID, Order]
) -> Answer | Exception:
    if claim.command.command_id in made:
        return _as_made(made[claim.command.command_id], claim)
    if isinstance(decision, Exception):
        return decision
    body = bodies[claim.command.command_id]
    if decision.claim is claim:
        return Answer(body, replayed=False)
    # The same command stood earlier in this batch.
    return _replay(Known(decision.claim.command.fingerprint, answer=body, refusal=None), claim.command)


def _replay(known: Known, command: Command) -> Answer | Exception:
    try:
        return Answer(commands.replay(known, command), replayed=True)
    except Refused as refusal:
        return refusal
