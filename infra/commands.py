"""The memory of write demands: the answer commits with the effect, and a repeat is answered from it.

Looked up in the facts statement, after the locks and before any other check; written in the effect's transaction.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Never, TypeVar
from uuid import UUID

from google.rpc.status_pb2 import Status

from infra.caller import Command
from infra.errors import KeyReused, Refused
from infra.postgres import Conn, Failure, classify, load_queries
from infra.rpc.status import from_status, to_status
from infra.telemetry import instruments

Result = TypeVar("Result")

SQL = load_queries(Path(__file__).parent / "sql/queries.sql")
NEW, REPLAYED, REUSED = (instruments.IDEMPOTENCY_REQUESTS.labels(result) for result in ("new", "replayed", "reused"))


@dataclass(frozen=True, slots=True)
class Known:
    """A command that was carried out: its serialized resource message, or its refusal as a `google.rpc.Status`."""

    fingerprint: bytes
    answer: bytes | None
    refusal: bytes | None


@dataclass(slots=True)
class Outcome:
    """What became of a command. `answer` is the serialized resource message."""

    command: Command
    verb: str
    answer: bytes | None = None
    refusal: Refused | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a story hands to its door: the serialized resource message, and whether it was stored before."""

    body: bytes
    replayed: bool


async def read_facts(conn: Conn, command_ids: Sequence[UUID]) -> tuple[datetime, dict[UUID, Known]]:
    """The clock and what is known of these commands, in one statement: call it after the locks."""
    rows = await conn.fetch(SQL["read_known"], command_ids)
    known = {
        row["command_id"]: Known(row["fingerprint"], row["answer"], row["refusal"])
        for row in rows
        if row["command_id"] is not None
    }
    return rows[0]["at"], known


def replay(known: Known, command: Command) -> bytes:
    """The stored answer.

    :raises KeyReused: the key was used with another request. :raises Refused: the refusal that was stored.
    """
    _refuse_other_request(known.fingerprint, command)
    REPLAYED.inc()
    if known.answer is None:
        _refuse_again(known)
    return known.answer


def repeat(outcome: Outcome, command: Command) -> Answer:
    """What a repeat is told that stands in the same batch as the demand it repeats.

    :raises KeyReused: the key was used with another request. :raises Refused: the refusal the first one got.
    """
    if outcome.refusal is not None:
        _refuse_other_request(outcome.command.fingerprint, command)
        raise outcome.refusal
    return Answer(replay(Known(outcome.command.fingerprint, outcome.answer, None), command), replayed=True)


async def save(conn: Conn, outcomes: Sequence[Outcome]) -> None:
    """Remember these outcomes. A refusal is kept only if it is final and a client may ask for it again by its key."""
    kept = [each for each in outcomes if each.refusal is None or (each.refusal.final and each.command.keyed)]
    NEW.inc(len(outcomes))
    if not kept:
        return
    await conn.execute(
        SQL["save_commands"],
        [each.command.command_id for each in kept],
        [each.verb for each in kept],
        [each.command.fingerprint for each in kept],
        [each.answer for each in kept],
        [to_status(each.refusal).SerializeToString() if each.refusal else None for each in kept],
    )


async def carry_out(transact: Callable[[], Awaitable[Result]]) -> Result:
    """Run a command's transaction; once more, at once, if another one stored the same command meanwhile.

    For verbs that are not batched: a batch does it by itself. The second run finds the command among its facts.
    """
    try:
        return await transact()
    except Exception as error:
        if classify(error) is not Failure.AGAIN_AT_ONCE:
            raise
    return await transact()


def _refuse_other_request(stored: bytes, command: Command) -> None:
    # Another version byte means other rules for fingerprints: a deployment must not turn retries into KeyReused.
    if stored[:1] == command.fingerprint[:1] and stored != command.fingerprint:
        REUSED.inc()
        raise KeyReused()


def _refuse_again(known: Known) -> Never:
    status = Status()
    status.ParseFromString(known.refusal or b"")
    refused = from_status(status)
    if isinstance(refused, Refused):
        refused.replayed = True
    raise refused
