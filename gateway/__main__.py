"""`python -m gateway serve | migrate | openapi`: wires the gateway together."""

import sys

import orjson

from gateway import app, openapi, store
from gateway.auth import Passwords, Tokens
from gateway.clients import Clients
from gateway.endpoint import Gateway
from gateway.limits import Limiter
from gateway.settings import GatewaySettings
from infra import postgres, process, redis, run


async def serve(settings: GatewaySettings) -> None:
    """Answers until a signal; drains; ends."""
    async with run.Process(settings) as gateway_process:
        database = await gateway_process.enter(postgres.open(settings))
        cache = await gateway_process.enter(redis.open(settings))
        clients = await gateway_process.enter(Clients(settings).opened())
        gateway_process.needs("postgres", lambda: database.ready)
        gateway = Gateway(
            settings=settings,
            tokens=Tokens.of(settings),
            passwords=Passwords.of(settings),
            limiter=Limiter.of(settings, cache),
            clients=clients,
            database=database,
        )
        for name, coalescer in clients.coalescers:
            gateway_process.background(name, coalescer.run)
        await gateway_process.serve(gateway_process.http(app.build(gateway), port=settings.port))


def main() -> None:
    """The command line."""
    if sys.argv[1:] == ["openapi"]:
        document = openapi.document(app.BASE, app.ROUTES)
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    process.main(process.Service(name="gateway", settings=GatewaySettings, serve=serve, migrations=[store.MIGRATIONS]))


if __name__ == "__main__":
    main()
