"""A used coupon is canceled: the redemption is undone, the order and its discount stay written on it."""

from coupon import events, messages, metrics, rules, store
from infra import commands, outbox, telemetry
from infra.caller import Command
from infra.commands import Answer, Outcome
from infra.errors import NotFound
from infra.postgres import Database
from infra.turns import Turns

VERB = "cancel"


async def cancel(
    database: Database, relay: outbox.Relay, turns: Turns, *, command: Command, coupon_id: int, deadline: float
) -> Answer:
    """The coupon, canceled, as a serialized Coupon. Neither the policy's count nor the user's limit is given back.

    :raises NotFound: :raises Forbidden: :raises KeyReused: as for any demand
    :raises Overloaded: :raises Unavailable: :raises DeadlineExceeded: when it could not be decided in time
    :raises AlreadyCanceled: :raises CouponNotUsed: as the rules say
    """

    async def transact() -> Answer:
        return await _transact(database, relay, command, coupon_id)

    async def take_turn() -> Answer:
        async with turns.take(coupon_id, deadline=deadline):
            return await commands.carry_out(transact)

    with telemetry.with_span("coupon.cancel", attributes={metrics.COUPON_ID: coupon_id}):
        return await metrics.CANCELS.counted(take_turn())


async def _transact(database: Database, relay: outbox.Relay, command: Command, coupon_id: int) -> Answer:
    async with database.transaction() as conn:
        coupon = await store.lock_coupon(conn, coupon_id)
        at, known = await commands.read_facts(conn, [command.command_id])
        if command.command_id in known:
            return Answer(commands.replay(known[command.command_id], command), replayed=True)
        if coupon is None:
            raise NotFound("Coupon", coupon_id)
        decision = rules.cancel(coupon, caller=command.caller, at=at)
        message = messages.coupon_message(decision.coupon)
        body = message.SerializeToString()
        if decision.refusal is None:
            await store.update_coupons(conn, [decision.coupon])
        await commands.save(conn, [Outcome(command, VERB, None if decision.refusal else body, decision.refusal)])
        if decision.refusal is None:
            await outbox.add(conn, [events.coupon_entered(message)], at)
    relay.wake()
    if decision.refusal is not None:
        raise decision.refusal
    return Answer(body, replayed=False)
