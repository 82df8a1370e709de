"""What an error of Postgres means for those who wait for an answer."""

import re
from collections.abc import Iterator
from enum import Enum

import asyncpg

from infra.errors import Kind, Refused

NOT_THERE = ("08", "53", "57")  # connection, resources, operator intervention and timeouts
TRANSIENT = (*NOT_THERE, "40", "55P03")  # deadlock and serialization; a row held longer than the lock timeout
BLOCKED = ("40", "55P03", "57014")  # the last: a statement took too long, for a lock that has no timeout
BAD_DATA = ("22", "23")  # 22 too where the driver could not encode a value: an integer too large, a text with a NUL
COMMANDS_KEY = "commands_pkey"
GONE = (OSError, TimeoutError, asyncpg.InternalClientError)  # a TimeoutError is the driver's own command_timeout
LOST = re.compile(r"(connection|pool) (is|was) clos|released back to the pool")  # between two statements


class Failure(Enum):
    """What to do with the transaction that failed."""

    AGAIN = "again"  # the whole of it, after a breath: the cause is outside and passes
    AGAIN_AT_ONCE = "again_at_once"  # another transaction stored one of these commands first: the facts now show it
    HALVE = "halve"  # one of the claims broke a constraint: find it
    BUG = "bug"


def classify(error: BaseException) -> Failure:
    """What this failure of a transaction asks for; the SQLSTATE decides, looked up through the causes."""
    code = sqlstate(error)
    if code is not None:
        if constraint(error) == COMMANDS_KEY:
            return Failure.AGAIN_AT_ONCE
        if code.startswith(TRANSIENT):
            return Failure.AGAIN
        return Failure.HALVE if code.startswith(BAD_DATA) else Failure.BUG
    for each in _causes(error):
        if isinstance(each, Refused):
            passing = each.kind in (Kind.UNAVAILABLE, Kind.OVERLOADED)
            return Failure.AGAIN if passing else Failure.BUG
        if isinstance(each, GONE) or _lost(each):
            return Failure.AGAIN
    return Failure.BUG


def blocked(error: BaseException) -> bool:
    """Whether a row that somebody else holds was in the way: other rows are not concerned."""
    return (sqlstate(error) or "").startswith(BLOCKED)


def sqlstate(error: BaseException) -> str | None:
    """The five characters Postgres gave, from the error itself or what caused it; None if it gave none."""
    for each in _causes(error):
        if isinstance(each, asyncpg.PostgresError):
            return each.sqlstate
    return None


def constraint(error: BaseException) -> str | None:
    """The name of the constraint that was broken."""
    for each in _causes(error):
        if isinstance(each, asyncpg.PostgresError):
            return each.as_dict().get("constraint_name")
    return None


def error_type(error: BaseException) -> str:
    """A short name out of a closed set, for `error.type`: the SQLSTATE, else the class."""
    return sqlstate(error) or type(error).__name__


def _lost(error: BaseException) -> bool:
    return isinstance(error, asyncpg.InterfaceError) and LOST.search(str(error)) is not None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
