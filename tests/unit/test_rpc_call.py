"""Who asks and what is asked are read out of the message, and only whole ones are believed."""

from uuid import UUID, uuid4, uuid5

import pytest

from infra.caller import Caller, Role
from infra.errors import Unauthenticated, ValidationFailed
from infra.rpc.call import caller_of, command_of
from protos.caller.v1 import caller_pb2
from protos.coupon.v1 import coupon_pb2 as pb

PRINT = b"\x01" + b"p" * 32
ALICE = caller_pb2.Caller(user_id="alice", role=caller_pb2.ROLE_USER)


def request(**changed: object) -> pb.IssueCouponRequest:
    whole = {"caller": ALICE, "command_id": str(uuid4()), "fingerprint": PRINT, "user_id": "alice"}
    return pb.IssueCouponRequest(**{**whole, **changed})  # type: ignore[arg-type]  # the cases are wrong on purpose


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (caller_pb2.ROLE_USER, Role.USER),
        (caller_pb2.ROLE_ADMIN, Role.ADMIN),
        (caller_pb2.ROLE_SERVICE, Role.SERVICE),
    ],
)
def test_the_caller_is_the_one_in_the_message(role: caller_pb2.Role.ValueType, expected: Role) -> None:
    assert caller_of(caller_pb2.Caller(user_id="shop:7", role=role)) == Caller("shop:7", expected)


@pytest.mark.parametrize(
    "caller",
    [
        caller_pb2.Caller(),
        caller_pb2.Caller(user_id="alice"),
        caller_pb2.Caller(role=caller_pb2.ROLE_ADMIN),
        caller_pb2.Caller(user_id="a b", role=caller_pb2.ROLE_USER),
        caller_pb2.Caller(user_id="alice\n", role=caller_pb2.ROLE_USER),
        caller_pb2.Caller(user_id="a" * 65, role=caller_pb2.ROLE_USER),
    ],
    ids=["nobody", "no role", "no id", "odd id", "a line break", "long id"],
)
def test_a_caller_that_names_nobody_is_refused(caller: caller_pb2.Caller) -> None:
    with pytest.raises(Unauthenticated):
        caller_of(caller)


def test_a_role_of_a_later_version_is_refused() -> None:
    message = caller_pb2.Caller.FromString(b"\x0a\x01a\x10\x63")
    with pytest.raises(Unauthenticated):
        caller_of(message)


def test_a_command_names_the_demand_and_whose_key_it_is() -> None:
    key = uuid5(UUID(int=7), "key")
    command = command_of(request(command_id=str(key)))
    assert (command.caller.user_id, command.command_id, command.fingerprint, command.keyed) == (
        "alice",
        key,
        PRINT,
        True,
    )
    assert not command_of(request()).keyed


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"command_id": ""}, "commandId"),
        ({"command_id": "7"}, "commandId"),
        ({"fingerprint": b""}, "fingerprint"),
        ({"fingerprint": b"p" * 32}, "fingerprint"),
    ],
)
def test_a_demand_without_a_name_or_a_print_is_refused(changed: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        command_of(request(**changed))
    assert list(refused.value.fields) == [field]
