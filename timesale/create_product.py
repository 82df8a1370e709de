"""An operator adds a product."""

from infra import commands, telemetry
from infra.caller import Command
from infra.commands import Answer, Outcome
from infra.postgres import Conn, Database
from timesale import messages, metrics, rules, store


async def create_product(database: Database, *, command: Command, name: str, price: int, description: str) -> Answer:
    """`price` in the smallest unit. :raises Forbidden: :raises ValidationFailed: :raises KeyReused:"""
    rules.check_may_manage(command.caller)
    rules.check_product(name, price, description)
    with telemetry.with_span("product.create") as span:
        async with database.transaction() as conn:
            at, known = await commands.read_facts(conn, [command.command_id])
            if command.command_id in known:
                return Answer(commands.replay(known[command.command_id], command), replayed=True)
            product = await store.insert_product(
                conn, name=name, price=price, description=description, command_id=command.command_id, at=at
            )
            if product is None:
                return await _made_before(conn, command)
            body = messages.product_message(product).SerializeToString()
            await commands.save(conn, [Outcome(command, "create_product", answer=body)])
        span.set_attribute(metrics.PRODUCT_ID, product.id)
    return Answer(body, replayed=False)


async def _made_before(conn: Conn, command: Command) -> Answer:
    """A racing repeat was first; or the commands table has forgotten, and the row is the last word."""
    _, known = await commands.read_facts(conn, [command.command_id])
    if command.command_id in known:
        return Answer(commands.replay(known[command.command_id], command), replayed=True)
    product = await store.read_made_product(conn, command.command_id)
    assert product is not None, "products_command_key"
    return Answer(messages.product_message(product).SerializeToString(), replayed=True)
