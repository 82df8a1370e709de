"""The command line every service has: serve, migrate, and what operators need of its data.

`python -m coupon serve`. Exit codes: 0 done; 1 it failed, or an invariant is broken; 2 wrong settings or arguments.
"""

import argparse
import asyncio
import dataclasses
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson
import uvloop

from infra import logs
from infra.errors import Refused, StartFailed
from infra.run import TaskDied
from infra.settings import Settings, load

SettingsT = TypeVar("SettingsT", bound=Settings)
Command = Callable[["Service[Any]", Any, argparse.Namespace], Awaitable[int]]

READY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Generic[SettingsT]):
    """What the command line must know of a service. `name` is its package and the prefix of its settings."""

    name: str
    settings: type[SettingsT]
    serve: Callable[[SettingsT], Coroutine[Any, Any, None]]
    migrations: Sequence[Path] = ()
    invariants: Sequence[Any] = ()  # infra.invariants.Invariant
    has_outbox: bool = False
    groups: Sequence[str] = ()  # consumer groups, for their dead letters


def main(service: Service[SettingsT], arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says; never returns."""
    parsed = _parser(service).parse_args(arguments)
    settings = load(service.settings, service.name)
    if parsed.run is not _serve:
        logs.configure(settings, stream=sys.stderr.buffer)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(parsed.run(service, settings, parsed))
    except (StartFailed, TaskDied) as error:
        what = "died" if isinstance(error, TaskDied) else "cannot start"
        sys.stderr.write(f"{service.name}: {what}: {error}\n")
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _parser(service: Service[Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {service.name}", epilog=f"example: python -m {service.name} serve", description=__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the service until SIGTERM or SIGINT").set_defaults(run=_serve)
    if service.migrations:
        commands.add_parser("migrate", help="bring the database to this version").set_defaults(run=_migrate)
    if service.invariants:
        command = commands.add_parser("invariants", help="check what must be true of the data; exit 1 if it is not")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=_invariants)
    if service.groups:
        _add_dead_letters(commands, service.groups)
    if service.has_outbox:
        _add_events(commands)
    return parser


def _add_dead_letters(commands: Any, groups: Sequence[str]) -> None:
    letters = commands.add_parser("dead-letters", help="records this service's consumers gave up")
    verbs = letters.add_subparsers(required=True, metavar="list|replay")
    for verb, run, help in (
        ("list", _list_dead_letters, "print them"),
        ("replay", _replay_dead_letters, "send them to their group once more"),
    ):
        command = verbs.add_parser(verb, help=help)
        command.add_argument("--topic", required=True)
        command.add_argument("--group", required=True, choices=groups)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run)


def _add_events(commands: Any) -> None:
    events = commands.add_parser("events", help="events of this service's outbox")
    replay = events.add_subparsers(required=True, metavar="replay").add_parser("replay", help="send events once more")
    replay.add_argument("--topic", required=True)
    replay.add_argument(
        "--since", required=True, type=_time, help="RFC 3339, for example 2026-11-21T09:00:00Z; without zone: UTC"
    )
    replay.set_defaults(run=_replay_events)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


async def _serve(service: Service[Any], settings: Any, parsed: argparse.Namespace) -> int:
    _need_database(service, settings)
    await service.serve(settings)
    return 0


async def _migrate(service: Service[Any], settings: Any, parsed: argparse.Namespace) -> int:
    from infra.migrate import MigrationFailed, migrate  # late: `serve` needs none of these commands

    _need_database(service, settings)
    try:
        applied = await migrate(settings.database_url, service.migrations)
    except (MigrationFailed, OSError) as error:
        raise StartFailed(f"migrate: {error}") from error
    sys.stdout.writelines(f"applied {name}\n" for name in applied)
    if not applied:
        sys.stdout.write("nothing to apply\n")
    return 0


def _need_database(service: Service[Any], settings: Settings) -> None:
    if service.migrations and not settings.database_url:
        raise StartFailed("DATABASE_URL is not set")


async def _invariants(service: Service[Any], settings: Any, parsed: argparse.Namespace) -> int:
    from infra import invariants

    async with invariants.database(settings) as database:
        broken = await _asked(invariants.check(database, service.invariants))
    if parsed.json:
        _print_json(
            {
                "service": service.name,
                "checked": [invariant.name for invariant in service.invariants],
                "broken": [dataclasses.asdict(each) for each in broken],
            }
        )
        return 1 if broken else 0
    names = {each.name: each for each in broken}
    for invariant in service.invariants:
        found = names.get(invariant.name)
        sys.stdout.write(f"{'BROKEN' if found else 'ok':<7} {invariant.name}: {invariant.sentence}\n")
        sys.stdout.writelines(f"        {row}\n" for row in (found.rows if found else ()))
    return 1 if broken else 0


async def _list_dead_letters(service: Service[Any], settings: Any, parsed: argparse.Namespace) -> int:
    from infra import dead_letters, postgres

    async with postgres.open(settings) as database:
        letters = await _asked(dead_letters.list_letters(database, parsed.topic, parsed.group))
    if parsed.json:
        _print_json([dataclasses.asdict(letter) for letter in letters])
    else:
        sys.stdout.writelines(f"{letter}\n" for letter in letters)
    return 0


async def _replay_dead_letters(service: Service[Any], settings: Any, parsed: argparse.Namespace) -> int:
    from infra import dead_letters, postgres, telemetry

    telemetry.start(settings.model_copy(update={"otel_traces_sampler": "always_on"}))  # somebody will look for it
    try:
        async with postgres.open(settings) as database:
            count = await _asked(dead_letters.replay(settings, database, parsed.topic, parsed.group))
    finally:
        await asyncio.to_thread(telemetry.shutdown)
    _say(parsed, {"replayed": count}, f"replayed {count} dead letters of {parsed.topic} to {parsed.group}")
    return 0


async def _replay_events(service: Service[Any], settings: Any, parsed: argparse.Namespace) -> int:
    from infra import outbox, postgres

    async with postgres.open(settings) as database:
        count = await _asked(outbox.replay(database, parsed.topic, parsed.since))
    _say(parsed, {"replayed": count}, f"{count} events of {parsed.topic} will be sent again")
    return 0


T = TypeVar("T")


async def _asked(answer: Awaitable[T]) -> T:
    """What Postgres answers. :raises StartFailed: it does not."""
    try:
        return await answer
    except Refused as error:
        raise StartFailed(f"Postgres does not answer: {error.__cause__ or error}") from error


def _say(parsed: argparse.Namespace, facts: dict[str, object], sentence: str) -> None:
    if getattr(parsed, "json", False):
        _print_json(facts)
    else:
        sys.stdout.write(f"{sentence}\n")


def _print_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode() + "\n")
