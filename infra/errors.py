"""The one typed "no" that crosses wires, and the kinds it comes in.

A refusal is normal business: it carries a stable code and facts as fields. The sentence a person reads is made once,
in the gateway's `problems.py`; the gRPC status once, in `infra/rpc/status.py`. Every other exception is a bug and
crosses a wire as a bare INTERNAL without text.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Self, TypeAlias

Fact: TypeAlias = str | int | datetime


class Kind(StrEnum):
    """What sort of "no" it is. `infra/rpc/status.py` says for each kind: gRPC status, breaker, retry, span status."""

    STATE = "state"  # the state of a resource forbids it
    NOT_FOUND = "not_found"
    INVALID = "invalid"  # the request itself is wrong
    DENIED = "denied"
    UNAUTHENTICATED = "unauthenticated"
    LIMITED = "limited"  # a rate limit
    OVERLOADED = "overloaded"  # a full queue: there, but busy
    UNAVAILABLE = "unavailable"  # not there
    DEADLINE = "deadline"


class Refused(Exception):
    """A typed "no".

    Facts are named in snake_case; `available`, `requested`, `missing` (int) and `retry_at` (datetime, UTC) mean the
    same everywhere. `final`: the state behind the refusal never changes, so that it is stored under a client's key.
    """

    kind: Kind
    code: str
    final: ClassVar[bool] = False
    replayed: bool = False  # it is the answer of an earlier call with the same command id

    def __init__(self, **facts: Fact | None) -> None:
        super().__init__(getattr(self, "code", ""))
        self.facts: dict[str, Fact] = {name: fact for name, fact in facts.items() if fact is not None}

    @classmethod
    def of(cls, kind: Kind, code: str, facts: dict[str, Fact]) -> Self:
        """The refusal that came over a wire or out of the store, where only its code is known."""
        refusal = cls(**facts)
        refusal.kind, refusal.code = kind, code
        refusal.args = (code,)
        return refusal


class NotFound(Refused):
    """No such resource. `resource` is the word of the sentence ("Coupon policy"), `id` its id."""

    kind, code = Kind.NOT_FOUND, "NOT_FOUND"

    def __init__(self, resource: str, id: int | str) -> None:
        super().__init__(resource=resource, id=id)


class ValidationFailed(Refused):
    """Fields of the request are wrong: `fields` is {name as the client wrote it: what is wrong and what is right}."""

    kind, code = Kind.INVALID, "VALIDATION_FAILED"

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self.fields = fields


class Forbidden(Refused):
    """The caller may not act for this user, or lacks the role."""

    kind, code = Kind.DENIED, "FORBIDDEN"


class Unauthenticated(Refused):
    """No token, or one that is not believed."""

    kind, code = Kind.UNAUTHENTICATED, "UNAUTHENTICATED"


class KeyReused(Refused):
    """The idempotency key was used with another request."""

    kind, code = Kind.INVALID, "IDEMPOTENCY_KEY_REUSED"


class RateLimited(Refused):
    """Too many requests; `retry_at` says when the next one fits."""

    kind, code = Kind.LIMITED, "RATE_LIMITED"


class Overloaded(Refused):
    """A bounded queue is full. The process is there, so this opens no breaker."""

    kind, code = Kind.OVERLOADED, "UNAVAILABLE"


class Unavailable(Refused):
    """A process or store this needs is not there. What was asked for may have happened: ask again by command id."""

    kind, code = Kind.UNAVAILABLE, "UNAVAILABLE"


class DeadlineExceeded(Refused):
    """No answer in time. What was asked for may have happened: ask again by command id."""

    kind, code = Kind.DEADLINE, "DEADLINE_EXCEEDED"


class StartFailed(Exception):
    """The process cannot start; the text is one line for a person. No refusal: it never crosses a wire."""
