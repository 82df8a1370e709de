"""A user redeems a coupon on an order. One found overdue is stored as EXPIRED, though the answer is a refusal."""

from coupon import events, messages, metrics, rules, store
from infra import commands, outbox, telemetry
from infra.caller import Command
from infra.commands import Answer, Outcome
from infra.errors import NotFound
from infra.postgres import Database
from infra.turns import Turns

VERB = "use"


async def use(
    database: Database,
    relay: outbox.Relay,
    turns: Turns,
    *,
    command: Command,
    coupon_id: int,
    order_id: int | None,
    order_amount: int,
    deadline: float,
) -> Answer:
    """The coupon, used, as a serialized Coupon. `order_amount` in the smallest unit, `deadline` by the loop's clock.

    :raises NotFound: :raises Forbidden: :raises ValidationFailed: :raises KeyReused: as for any demand
    :raises Overloaded: :raises Unavailable: :raises DeadlineExceeded: when it could not be decided in time
    :raises CouponNotAvailable: :raises CouponExpired: :raises MinimumOrderAmount: as the rules say
    """

    async def transact() -> Answer:
        return await _transact(database, relay, command, coupon_id, order_id, order_amount)

    async def take_turn() -> Answer:
        rules.check_use(order_id, order_amount)
        async with turns.take(coupon_id, deadline=deadline):
            return await commands.carry_out(transact)

    with telemetry.with_span("coupon.use", attributes={metrics.COUPON_ID: coupon_id}):
        return await metrics.USES.counted(take_turn())


async def _transact(
    database: Database, relay: outbox.Relay, command: Command, coupon_id: int, order_id: int | None, order_amount: int
) -> Answer:
    async with database.transaction() as conn:
        coupon = await store.lock_coupon(conn, coupon_id)
        at, known = await commands.read_facts(conn, [command.command_id])
        if command.command_id in known:
            return Answer(commands.replay(known[command.command_id], command), replayed=True)
        if coupon is None:
            raise NotFound("Coupon", coupon_id)
        decision = rules.use(coupon, caller=command.caller, order_id=order_id, order_amount=order_amount, at=at)
        after, message = decision.coupon, messages.coupon_message(decision.coupon)
        body = message.SerializeToString()
        if after is not coupon:
            await store.update_coupons(conn, [after])
        await commands.save(conn, [Outcome(command, VERB, None if decision.refusal else body, decision.refusal)])
        if after is not coupon:
            await outbox.add(conn, [events.coupon_entered(message)], at)
    relay.wake()
    if decision.refusal is not None:  # after the commit: a coupon found overdue stays EXPIRED
        raise decision.refusal
    return Answer(body, replayed=False)
