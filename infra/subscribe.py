"""Consume the platform's events in a program of your own; `infra/examples/coupon_mail.py` is a whole one.

    settings = subscribe.settings("mailer", database_url=..., kafka_brokers=...)
    await subscribe.migrate(settings)
    async with postgres.open(settings) as pool:
        await subscribe.run(settings, pool, group="mailer", topics=["parcel.sent"], handle=write_mail)

    async def write_mail(conn: Conn, event: Record) -> None:
        parcel = event.message(ParcelSent)
        await conn.execute("INSERT INTO mails (parcel_id, user_id) VALUES ($1, $2)", parcel.id, parcel.user_id)

What it does for you:

- `handle` runs once in effect for each event of the group: its writes on `conn` and the memory of the event commit
  together. It may be called again after a rollback, so it does nothing outside `conn` that cannot be repeated.
- Events of one key come in their order; of several programs with the same group each gets a part of the keys.
- Its statements are seen in the trace of the request that caused the event, and `event.traceparent` continues it.
- A handler that raises is asked again, with pauses, while other keys flow; after five times the event is a dead
  letter: kept in `dead_letters`, told on `<topic>.dlq`. `raise BadRecord(reason, text)` gives up at once, and
  `Unavailable` waits without counting. `dead_letters()` lists them, `replay()` hands them to the group again.
- While Postgres or Kafka is away it waits, and goes on by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from infra import dead_letters as letters
from infra import migrate as migrations
from infra import purge
from infra.consumer import BadRecord, Consumer, Record
from infra.dead_letters import Letter
from infra.errors import Unavailable
from infra.outbox import Relay
from infra.postgres import Conn, Database
from infra.settings import WorkerSettings

__all__ = [
    "BadRecord",
    "Conn",
    "Handle",
    "Letter",
    "Record",
    "Unavailable",
    "dead_letters",
    "migrate",
    "replay",
    "run",
    "settings",
]

MIGRATIONS = Path(__file__).parent / "sql/subscribe"
Handle: TypeAlias = Callable[[Conn, Record], Awaitable[None]]


def settings(name: str, *, database_url: str, kafka_brokers: str, **limits: object) -> WorkerSettings:
    """Settings of a program called `name`, which is what traces, logs and Kafka call it; `limits` as in `Settings`.

    :raises ValueError: a value is malformed.
    """
    given = {"service_name": name, "database_url": database_url, "kafka_brokers": kafka_brokers, **limits}
    return WorkerSettings.model_validate(given)


async def migrate(settings: WorkerSettings) -> list[str]:
    """Make the tables of the subscription in the program's database, where they are not there yet.

    :raises MigrationFailed: :raises OSError: Postgres is not there.
    """
    return await migrations.migrate(settings.database_url, [MIGRATIONS])


async def run(settings: WorkerSettings, pool: Database, *, group: str, topics: Sequence[str], handle: Handle) -> None:
    """Consume until cancelled."""

    async def handle_all(conn: Conn, events: Sequence[Record]) -> None:
        for event in events:
            await handle(conn, event)

    consumer = Consumer(settings, pool, group=group, topics=topics, handle=handle_all)
    relay = Relay(settings, pool, source=f"/{settings.service_name}")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer.run())
        tasks.create_task(relay.run())
        tasks.create_task(purge.job(settings, pool, commands=False).loop())


async def dead_letters(pool: Database, *, topic: str, group: str) -> list[Letter]:
    """What the group gave up of a topic, the oldest first. :raises Unavailable:"""
    return await letters.list_letters(pool, topic, group)


async def replay(settings: WorkerSettings, pool: Database, *, topic: str, group: str) -> int:
    """Hand what the group gave up of a topic to it once more; no other group acts on it. Returns how many.

    :raises Unavailable:
    """
    return await letters.replay(settings, pool, topic, group)
