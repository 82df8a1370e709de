"""`promo events` and `promo dlq`: what went through the topics, and once more."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from infra.local.platform import DEAD_LETTERS, TOPICS
from infra.local.state import State
from infra.local.terminal import Json, say

events = typer.Typer(help="Events as they are sent, and once more.", no_args_is_help=True, rich_markup_mode=None)
dlq = typer.Typer(help="Dead letters: what a consumer gave up on.", no_args_is_help=True, rich_markup_mode=None)

Topic = Annotated[str, typer.Argument(help=f"One of {', '.join(TOPICS)}.")]
Group = Annotated[str, typer.Option(help="The consumer group.")]


@events.command("tail")
def events_tail(
    topic: Annotated[str | None, typer.Argument(help="One topic (also with .dlq); by default all of them.")] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Also what was sent before.")] = False,
    as_json: Json = False,
) -> None:
    """Print events as they are sent, with their trace ids, until Ctrl-C.

    Example: ./promo events tail coupon.issued --json
    """
    from infra.local.tail import tail
    from infra.local.verbs import owner_of_topic

    if topic is not None:
        owner_of_topic(topic.removesuffix(DEAD_LETTERS))
    brokers = State.of_this_checkout().run().urls["kafka"]

    async def print_all() -> None:
        async for record in tail(brokers, [topic] if topic else list(TOPICS), from_beginning=from_beginning):
            say(record.as_json() if as_json else record.as_text())

    asyncio.run(print_all())


@events.command("replay")
def events_replay(
    topic: Topic, since: Annotated[str, typer.Option(help="RFC 3339: events made at or after this time.")]
) -> None:
    """Send the events of a topic once more, from the outbox; a consumer that knows them ignores them.

    Example: ./promo events replay coupon.issued --since 2026-01-01T00:00:00Z
    """
    from infra.local.verbs import owner_of_topic

    _pass_on(owner_of_topic(topic), ["events", "replay", "--topic", topic, "--since", since])


@dlq.command("list")
def dlq_list(topic: Topic, group: Group, as_json: Json = False) -> None:
    """List the dead letters of a topic and a group.

    Example: ./promo dlq list coupon.issued --group point-service
    """
    _dead_letters("list", topic, group, as_json=as_json)


@dlq.command("replay")
def dlq_replay(topic: Topic, group: Group, as_json: Json = False) -> None:
    """Hand the dead letters of a topic to their group once more, and to no other.

    Example: ./promo dlq replay coupon.issued --group point-service
    """
    _dead_letters("replay", topic, group, as_json=as_json)


def _dead_letters(verb: str, topic: str, group: str, *, as_json: bool) -> None:
    from infra.local.verbs import owner_of_group, owner_of_topic

    owner_of_topic(topic)
    arguments = ["dead-letters", verb, "--topic", topic, "--group", group, *(["--json"] if as_json else [])]
    _pass_on(owner_of_group(group), arguments)


def _pass_on(process: str, arguments: Sequence[str]) -> None:
    """Let a process answer; its output and exit code are ours."""
    from infra.local.verbs import ask

    answer = ask(State.of_this_checkout().run(), process, arguments)
    print(answer.output, end="")
    print(answer.errors, end="", file=sys.stderr)
    raise typer.Exit(answer.exit_code)
