"""The coupon service: `python -m coupon serve|migrate|invariants|events`."""

from functools import partial
from pathlib import Path

from coupon.expire import Expiry
from coupon.gate import Gate
from coupon.invariants import INVARIANTS
from coupon.issue import Issuing
from coupon.rpc import SERVICE as RPC_SERVICE
from coupon.rpc import Coupons
from coupon.settings import CouponSettings
from infra import discovery, invariants, outbox, postgres, process, purge, redis, run
from infra.jobs import Job
from infra.rpc.server import Server
from protos.coupon.v1.coupon_pb2_grpc import add_CouponServiceServicer_to_server

HERE = Path(__file__).parent


async def serve(settings: CouponSettings) -> None:
    """Everything of the process, until it is told to end."""
    async with run.Process(settings) as this:
        database = await this.enter(postgres.open(settings))
        cache = await this.enter(redis.open(settings))
        checks = await this.enter(invariants.database(settings))
        this.needs("postgres", lambda: database.ready)

        relay = outbox.Relay(settings, database, source="/promo/coupon-service")
        gate = Gate(cache)
        issuing = Issuing(database, gate, relay, settings)
        expiry = Expiry(database, cache, relay, settings)
        coupons = Coupons(database, issuing, relay, settings)
        server = Server(settings, partial(add_CouponServiceServicer_to_server, coupons), [RPC_SERVICE])

        discovery.announce(settings, server, this)
        this.background("batch coupon.policy", issuing.batch.run)
        this.background("batch coupon.refusal", issuing.refusals.run)
        this.background("relay", relay.run)
        this.background("view", gate.run)
        this.background("expire", Job("expire", settings.expire_every_seconds, expiry.run).loop)
        this.background("purge", purge.job(settings, database).loop)
        this.background("invariants", invariants.job(settings, checks, INVARIANTS).loop)
        await this.serve(server)


SERVICE = process.Service(
    name="coupon",
    settings=CouponSettings,
    serve=serve,
    migrations=[HERE.parent / "infra/sql/migrations", HERE / "sql/migrations"],
    invariants=INVARIANTS,
    has_outbox=True,
)

if __name__ == "__main__":
    process.main(SERVICE)
