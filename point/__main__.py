"""The point service: `python -m point serve`."""

from pathlib import Path

from infra import invariants, postgres, process, purge, redis, run
from infra.consumer import Consumer
from infra.discovery import announce
from infra.migrate import PLATFORM
from infra.outbox import Relay
from infra.rpc.server import Server
from point.cache import Cache
from point.consumer import GROUP, TOPICS, Rewards
from point.invariants import INVARIANTS
from point.post import Ledger
from point.rpc import SERVICE as RPC_SERVICE
from point.rpc import Points
from point.settings import PointSettings
from protos.point.v1.point_pb2_grpc import add_PointServiceServicer_to_server

HERE = Path(__file__).parent


async def serve(settings: PointSettings) -> None:
    """Wire the service and run it until it is told to end."""
    async with run.Process(settings) as process:
        database = await process.enter(postgres.open(settings))
        polls = await process.enter(postgres.open(settings, name="consumer", size_max=2))
        checks = await process.enter(invariants.database(settings))
        cache = Cache(await process.enter(redis.open(settings)), settings)
        process.needs("postgres", lambda: database.ready)

        relay = Relay(settings, database, source="/promo/point-service")
        ledger = Ledger(database, cache, relay, settings)
        consumer = Consumer(settings, polls, group=GROUP, topics=TOPICS, handle=Rewards(cache, relay).handle)
        process.background("batch point.balance", ledger.batch.run)
        process.background("consumer", consumer.run)
        process.background("relay", relay.run)
        process.background("balances", cache.run)
        process.background("purge", purge.job(settings, database).loop)
        process.background("invariants", invariants.job(settings, checks, INVARIANTS).loop)

        points = Points(database, ledger, cache)
        server = Server(
            settings, lambda grpc_server: add_PointServiceServicer_to_server(points, grpc_server), [RPC_SERVICE]
        )
        announce(settings, server, process)
        await process.serve(server)


SERVICE = process.Service(
    name="point",
    settings=PointSettings,
    serve=serve,
    migrations=[PLATFORM, HERE / "sql" / "migrations"],
    invariants=INVARIANTS,
    has_outbox=True,
    groups=[GROUP],
)

if __name__ == "__main__":
    process.main(SERVICE)
