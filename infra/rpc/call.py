"""What a handler may know of the call it serves, and how it reads caller and command out of a message."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from infra.caller import Caller, Command, Role
from infra.checks import user
from infra.errors import Unauthenticated, ValidationFailed
from protos.caller.v1 import caller_pb2

MessageT = TypeVar("MessageT", bound=Message)

FINGERPRINT_BYTES = 33  # the version byte and a SHA-256
ROLES = {
    caller_pb2.ROLE_USER: Role.USER,
    caller_pb2.ROLE_ADMIN: Role.ADMIN,
    caller_pb2.ROLE_SERVICE: Role.SERVICE,
}


class Demand(Protocol):
    """A message that asks for a write."""

    @property
    def caller(self) -> caller_pb2.Caller: ...
    @property
    def command_id(self) -> str: ...
    @property
    def fingerprint(self) -> bytes: ...


class Stored(Protocol):
    """What a story hands to its door: the serialized resource, and whether it was the answer of an earlier call."""

    @property
    def body(self) -> bytes: ...
    @property
    def replayed(self) -> bool: ...


@dataclass(slots=True)
class Call:
    """The call, or the batch item, that is being served. `deadline` is an instant of the loop's clock."""

    request_id: str
    deadline: float
    replayed: bool = False

    def remaining(self) -> float:
        """Seconds left; negative when it is too late."""
        return self.deadline - asyncio.get_running_loop().time()


_current: ContextVar[Call] = ContextVar("rpc_call")


def current() -> Call:
    """The call this code serves. :raises LookupError: outside of one."""
    return _current.get()


def enter(call: Call) -> None:
    """Make it the current call of this task; each call and each item is served by a task of its own."""
    _current.set(call)


def mark_replayed() -> None:
    """The answer of the current call is that of an earlier one."""
    _current.get().replayed = True


def message_of(message_type: Callable[[], MessageT], answer: Stored) -> MessageT:
    """The resource message of a story's answer; a replayed one marks the call as such."""
    if answer.replayed:
        mark_replayed()
    message = message_type()
    message.ParseFromString(answer.body)
    return message


def caller_of(message: caller_pb2.Caller) -> Caller:
    """Who asks, from a request's `caller`. :raises Unauthenticated: it names nobody."""
    role = ROLES.get(message.role)
    if role is None or user(message.user_id):
        raise Unauthenticated
    return Caller(message.user_id, role)


def command_of(message: Demand) -> Command:
    """The write demand a request names.

    :raises Unauthenticated: it names no caller.
    :raises ValidationFailed: its command id is no UUID, or its fingerprint has another size.
    """
    caller = caller_of(message.caller)
    try:
        command_id = UUID(message.command_id)
    except ValueError:
        raise ValidationFailed({"commandId": "must be a UUID"}) from None
    if len(message.fingerprint) != FINGERPRINT_BYTES:
        raise ValidationFailed({"fingerprint": f"must have {FINGERPRINT_BYTES} bytes"})
    return Command(caller, command_id, message.fingerprint)
