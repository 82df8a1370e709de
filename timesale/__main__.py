"""The timesale service: `python -m timesale serve|migrate|invariants|events`."""

from functools import partial
from pathlib import Path

from infra import discovery, invariants, migrate, outbox, postgres, process, purge, redis, run
from infra.rpc.server import Server
from protos.timesale.v1.timesale_pb2_grpc import add_TimeSaleServiceServicer_to_server
from timesale.gate import Gate
from timesale.invariants import INVARIANTS
from timesale.order import Orders
from timesale.rpc import SERVICE as RPC_SERVICE
from timesale.rpc import TimeSales
from timesale.settings import TimesaleSettings
from timesale.sweep import Sweep

HERE = Path(__file__).parent


async def serve(settings: TimesaleSettings) -> None:
    """Everything of the process, until it is told to end."""
    async with run.Process(settings) as this:
        database = await this.enter(postgres.open(settings))
        cache = await this.enter(redis.open(settings))
        checks = await this.enter(invariants.database(settings))
        this.needs("postgres", lambda: database.ready)

        relay = outbox.Relay(settings, database, source="/promo/timesale-service")
        gate = Gate(cache)
        orders = Orders(database, gate, relay, settings)
        sweep = Sweep(database, cache, relay, settings)
        sales = TimeSales(database, orders, relay, settings)
        server = Server(settings, partial(add_TimeSaleServiceServicer_to_server, sales), [RPC_SERVICE])

        discovery.announce(settings, server, this)
        this.background("batch timesale.sale", orders.batch.run)
        this.background("batch timesale.refusal", orders.refusals.run)
        this.background("relay", relay.run)
        this.background("view", gate.run)
        this.background("sweep", sweep.job().loop)
        this.background("purge", purge.job(settings, database).loop)
        this.background("invariants", invariants.job(settings, checks, INVARIANTS).loop)
        await this.serve(server)


SERVICE = process.Service(
    name="timesale",
    settings=TimesaleSettings,
    serve=serve,
    migrations=[migrate.PLATFORM, HERE / "sql/migrations"],
    invariants=INVARIANTS,
    has_outbox=True,
)

if __name__ == "__main__":
    process.main(SERVICE)
