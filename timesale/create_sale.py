"""An operator puts a quantity of a product on sale."""

from infra import commands, outbox, telemetry
from infra.caller import Command
from infra.commands import Answer, Outcome
from infra.errors import NotFound
from infra.outbox import Relay
from infra.postgres import Conn, Database
from timesale import events, messages, metrics, rules, store
from timesale.rules import Listing, SaleStatus, SaleTerms


async def create_sale(database: Database, relay: Relay, *, command: Command, terms: SaleTerms) -> Answer:
    """Its state is the clock's. :raises Forbidden: :raises ValidationFailed: :raises NotFound: :raises KeyReused:"""
    rules.check_may_manage(command.caller)
    rules.check_sale(terms)
    with telemetry.with_span("timesale.create") as span:
        async with database.transaction() as conn:
            at, known = await commands.read_facts(conn, [command.command_id])
            if command.command_id in known:
                return Answer(commands.replay(known[command.command_id], command), replayed=True)
            product = await store.read_product(conn, terms.product_id)
            if product is None:
                raise NotFound("Product", terms.product_id)
            rules.check_discount(terms, product)
            status = rules.status_at(terms, at)
            sale = await store.insert_sale(conn, terms, status=status, command_id=command.command_id, at=at)
            if sale is None:
                return await _made_before(conn, command)
            listing = Listing(sale, product)
            body = messages.sale_message(listing).SerializeToString()
            await commands.save(conn, [Outcome(command, "create_sale", answer=body)])
            told = [events.sale_created(listing)]
            if sale.status is SaleStatus.ACTIVE:
                told.append(events.sale_entered(listing))
            await outbox.add(conn, told, at)
        relay.wake()
        span.set_attribute(metrics.SALE_ID, sale.id)
    return Answer(body, replayed=False)


async def _made_before(conn: Conn, command: Command) -> Answer:
    """A racing repeat was first; or the commands table has forgotten, and the row is the last word."""
    _, known = await commands.read_facts(conn, [command.command_id])
    if command.command_id in known:
        return Answer(commands.replay(known[command.command_id], command), replayed=True)
    listing = await store.read_made_listing(conn, command.command_id)
    assert listing is not None, "sales_command_key"
    return Answer(messages.sale_message(listing).SerializeToString(), replayed=True)
