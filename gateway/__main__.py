"""The gateway: `python -m gateway serve`; `python -m gateway openapi` prints its OpenAPI document."""

import sys

import orjson

from gateway import app, openapi, store
from gateway.auth import Passwords, Tokens
from gateway.clients import Clients
from gateway.endpoint import Gateway
from gateway.limits import Limiter
from gateway.settings import GatewaySettings
from infra import discovery, postgres, process, redis, run


async def serve(settings: GatewaySettings) -> None:
    """Answers until a signal."""
    async with run.Process(settings) as life:
        database = await life.enter(postgres.open(settings))
        cache = await life.enter(redis.open(settings))
        clients = Clients(settings, lambda name, addresses: discovery.find(settings, name, addresses, life))
        await life.enter(clients.opened())
        life.needs("postgres", lambda: database.ready)
        for name, coalescer in clients.coalescers:
            life.background(name, coalescer.run)
        gateway = Gateway(
            settings=settings,
            tokens=Tokens.of(settings),
            passwords=Passwords.of(settings),
            limiter=Limiter.of(settings, cache),
            clients=clients,
            database=database,
        )
        await life.serve(life.http(app.build(gateway), port=settings.port))


def print_openapi() -> None:
    """The document as it is committed in `gateway/openapi.json`."""
    document = openapi.document(app.BASE, app.ROUTES)
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


SERVICE = process.Service(name="gateway", settings=GatewaySettings, serve=serve, migrations=[store.MIGRATIONS])

if __name__ == "__main__":
    if sys.argv[1:] == ["openapi"]:
        print_openapi()
    else:
        process.main(SERVICE)
