"""Who asks, and the name of what is asked. Pure data, so that `rules` may use it."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

CLIENT_KEY_VERSION = 5  # the gateway derives a client's key by uuid5 and draws a uuid4 where there is none


class Role(StrEnum):
    """What the token says its holder is."""

    USER = "user"
    ADMIN = "admin"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Caller:
    """The person or machine a request is made for, as the gateway read it from the token."""

    user_id: str
    role: Role

    def may_act_for(self, user_id: str) -> bool:
        """Whether it may touch what belongs to this user: a user only its own, admins and services everybody's."""
        return self.role is not Role.USER or self.user_id == user_id


@dataclass(frozen=True, slots=True)
class Command:
    """One write demand: the same id asks for the same effect, once. `fingerprint` is version byte + SHA-256."""

    caller: Caller
    command_id: UUID
    fingerprint: bytes

    @property
    def keyed(self) -> bool:
        """Whether a client named this demand by an `Idempotency-Key`, so that it may come back to ask again."""
        return self.command_id.version == CLIENT_KEY_VERSION
