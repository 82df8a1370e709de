"""Tokens nobody should believe, and the time a password takes."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from gateway.auth import Passwords, Tokens
from infra.caller import Caller, Role
from infra.errors import Overloaded, Unauthenticated

SECRET = "a secret of tests of 32 bytes or more"
OTHER = "another secret of 32 bytes or more.."


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, ttl_seconds=3600, cache_size_max=10)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {"sub": "u-1", "role": "user", "aud": "promo-api", "iat": now, "exp": now + 60, **changed}
    return {name: value for name, value in whole.items() if value is not None}


def signed(
    secret: str = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changed: Any
) -> str:
    return jwt.encode(claims(**changed), secret, algorithm, headers=headers)


def raw(header: dict[str, Any], payload: object, secret: bytes = SECRET.encode()) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def attacks() -> Iterator[tuple[str, str]]:
    now = int(time.time())
    yield "alg none", jwt.encode(claims(), None, "none")
    yield "alg none in capitals", raw({"alg": "None", "typ": "JWT"}, claims())
    yield "another algorithm", signed(algorithm="HS512", secret=SECRET * 2)
    yield "RS256 with our secret as its key", raw({"alg": "RS256", "typ": "JWT"}, claims())
    yield "another key", signed(OTHER)
    yield "a key of its own", raw({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}, claims(), b"\0\0\0")
    yield "cut signature", signed()[:-4]
    yield "no signature", signed().rsplit(".", 1)[0] + "."
    yield "expired", signed(iat=now - 100, exp=now - 10)
    yield "not yet", signed(nbf=now + 10_000)
    yield "issued in the future", signed(iat=now + 10_000, exp=now + 20_000)
    yield "wrong audience", signed(aud="promo-workers")
    yield "admission token", signed(aud="promo-admission")
    yield "no audience", signed(aud=None)
    yield "no expiry", signed(exp=None)
    yield "no subject", signed(sub=None)
    yield "no role", signed(role=None)
    yield "unknown role", signed(role="root")
    yield "role in capitals", signed(role="ADMIN")
    yield "a list of roles", signed(role=["admin"])
    yield "subject with a space", signed(sub="u 1")
    yield "subject too long", signed(sub="u" * 65)
    yield "numeric subject", raw({"alg": "HS256", "typ": "JWT"}, claims(sub=1))
    yield "another type", signed(headers={"typ": "service+jwt"})
    yield "critical header", signed(headers={"crit": ["exp"]})
    yield "unencoded payload", signed(headers={"crit": ["b64"], "b64": False})
    yield "10 KB", signed(padding="x" * 10_000)
    yield "a payload that is no object", raw({"alg": "HS256", "typ": "JWT"}, [1])
    yield "huge expiry", raw({"alg": "HS256", "typ": "JWT"}, claims(exp=10**400))
    yield "expiry that is no number", raw({"alg": "HS256", "typ": "JWT"}, claims(exp="soon"))
    yield "not a token", "x"
    yield "empty", ""
    yield "dots", ".."
    yield "not ASCII", "é.é.é"
    yield "null bytes", "\x00.\x00.\x00"


BAD = [pytest.param(token, id=name) for name, token in attacks()]


@pytest.mark.parametrize("token", BAD)
def test_a_forged_token_is_not_believed(tokens: Tokens, token: str) -> None:
    started = time.process_time()
    with pytest.raises(Unauthenticated):
        tokens.read(f"Bearer {token}")
    assert time.process_time() - started < 0.005
    with pytest.raises(Unauthenticated):
        tokens.read(f"Bearer {token}")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dTpw", "bearer  x", "Token {}", "{}", "Bearer,{}"])
def test_another_scheme_is_not_believed(tokens: Tokens, header: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read(header.format(signed()))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_good_token_names_its_caller(tokens: Tokens, scheme: str) -> None:
    assert tokens.read(f"{scheme} {signed(role='service')}") == Caller("u-1", Role.SERVICE)


def test_a_clock_five_seconds_off_does_no_harm(tokens: Tokens) -> None:
    now = int(time.time())
    assert tokens.read(f"Bearer {signed(iat=now + 4, exp=now + 60)}").user_id == "u-1"
    assert tokens.read(f"Bearer {signed(iat=now - 60, exp=now - 3)}").user_id == "u-1"


def test_a_remembered_token_still_expires(tokens: Tokens) -> None:
    now = int(time.time())
    header = f"Bearer {signed(iat=now - 60, exp=now - 4)}"
    assert tokens.read(header).user_id == "u-1"
    time.sleep(max(0.0, now + 1.1 - time.time()))
    with pytest.raises(Unauthenticated):
        tokens.read(header)


def test_what_is_remembered_is_bounded_and_a_forgery_is_not_remembered() -> None:
    tokens = Tokens(SECRET, ttl_seconds=60, cache_size_max=3)
    for number in range(10):
        tokens.read("Bearer " + tokens.mint(f"u-{number}", Role.USER))
    with pytest.raises(Unauthenticated):
        tokens.read("Bearer " + signed(OTHER))
    assert len(tokens._known) == 3


def test_a_minted_token_is_read_back(tokens: Tokens) -> None:
    assert tokens.read("Bearer " + tokens.mint("17", Role.ADMIN)) == Caller("17", Role.ADMIN)


def test_a_token_of_the_key_before_is_believed_during_a_rotation() -> None:
    rotated = Tokens(f"{OTHER}, {SECRET}", ttl_seconds=60, cache_size_max=3)
    assert rotated.read(f"Bearer {signed()}").user_id == "u-1"
    assert jwt.decode(rotated.mint("u", Role.USER), OTHER, ["HS256"], audience="promo-api")["sub"] == "u"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(threads_max=2, queue_max=4)
    yield made
    made.close()


async def test_a_password_matches_what_was_stored_of_it_alone(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert stored != await passwords.hash("correct horse"), "a salt of its own each time"
    assert await passwords.matches("correct horse", stored)
    assert not await passwords.matches("wrong horse", stored)
    assert not await passwords.matches("a password nobody has", None)


async def test_an_unknown_user_costs_the_same_work_as_a_wrong_password(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await passwords.hash("correct horse")
    work: list[dict[str, object]] = []
    scrypt = hashlib.scrypt

    def counted(password: bytes, **cost: Any) -> bytes:
        work.append({"bytes": len(password), **{name: cost[name] for name in ("n", "r", "p")}})
        return scrypt(password, **cost)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    assert not await passwords.matches("wrong horse", stored)
    assert not await passwords.matches("wrong horse", None)
    assert len(work) == 2
    assert work[0] == work[1]


async def test_too_many_passwords_at_once_are_refused_and_the_loop_stays_free(passwords: Passwords) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(passwords.hash("x" * 8)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await passwords.hash("one too many")
    assert all(task.result().startswith("scrypt$16384$8$1$") for task in waiting)
