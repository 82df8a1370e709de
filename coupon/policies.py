"""An operator sets up a campaign."""

from coupon import messages, metrics, rules, store
from coupon.rules import Draft, Listing
from infra import commands, telemetry
from infra.caller import Command
from infra.commands import Answer, Outcome
from infra.postgres import Conn, Database
from infra.turns import Turns

VERB = "create_policy"


async def create_policy(database: Database, turns: Turns, *, command: Command, draft: Draft, deadline: float) -> Answer:
    """The policy as a serialized Policy. `deadline` is an instant of the loop's clock.

    :raises Forbidden: :raises ValidationFailed: :raises KeyReused: as for any demand
    :raises Overloaded: :raises Unavailable: :raises DeadlineExceeded: when it could not be decided in time
    """
    rules.check_may_manage(command.caller)
    rules.check_draft(draft)
    with telemetry.with_span("coupon.create_policy") as span:
        async with turns.take(command.command_id, deadline=deadline), database.transaction() as conn:
            at, known = await commands.read_facts(conn, [command.command_id])
            if command.command_id in known:
                return Answer(commands.replay(known[command.command_id], command), replayed=True)
            policy = await store.insert_policy(conn, draft, command_id=command.command_id, at=at)
            if policy is None:
                return await _made_before(conn, command)
            body = _body(Listing(policy, rules.policy_status(policy, at)))
            await commands.save(conn, [Outcome(command, VERB, answer=body)])
        span.set_attribute(metrics.POLICY_ID, policy.terms.id)
    return Answer(body, replayed=False)


async def _made_before(conn: Conn, command: Command) -> Answer:
    """A racing repeat was first; or the commands table has forgotten, and the row is the last word."""
    _, known = await commands.read_facts(conn, [command.command_id])
    if command.command_id in known:
        return Answer(commands.replay(known[command.command_id], command), replayed=True)
    listing = await store.read_made_listing(conn, command.command_id)
    assert listing is not None, "policies_command_key"
    return Answer(_body(listing), replayed=True)


def _body(listing: Listing) -> bytes:
    return messages.policy_message(listing).SerializeToString()
