"""A worker believes the gateway's service token and nothing else."""

import base64
import json
import time
from collections.abc import Iterator

import jwt
import pytest

from infra.errors import Unauthenticated
from infra.rpc import tokens
from infra.rpc.tokens import AUDIENCE, BELIEVED_MAX, ISSUER, TYPE, ServiceToken, Verifier
from infra.settings import Settings

KEY, OTHER = "k" * 32, "o" * 32
SETTINGS = Settings(service_token_secret=KEY)


def claims(**changed: object) -> dict[str, object]:
    now = int(time.time())
    return {"iss": ISSUER, "sub": "gw-1", "aud": AUDIENCE, "iat": now, "exp": now + 300, **changed}


def bearer(payload: dict[str, object], key: str = KEY, algorithm: str = "HS256", **headers: object) -> str:
    return "Bearer " + jwt.encode(payload, key, algorithm, headers={"typ": TYPE, **headers})


def without_a_signature() -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"Bearer {part({'alg': 'none', 'typ': TYPE})}.{part(claims())}."


def refused() -> Iterator[tuple[str, str]]:
    now = int(time.time())
    yield "nothing", ""
    yield "no scheme", bearer(claims()).removeprefix("Bearer ")
    yield "junk", "Bearer junk"
    yield "ten kilobytes", "Bearer " + "x" * 10_240
    yield "alg none", without_a_signature()
    yield "another algorithm", bearer(claims(), KEY * 2, "HS512")
    yield "another key", bearer(claims(), OTHER)
    yield "a user's audience", bearer(claims(aud="promo-api"))
    yield "another issuer", bearer(claims(iss="somebody"))
    yield "a user's type", bearer(claims(), typ="JWT")
    yield "expired", bearer(claims(iat=now - 400, exp=now - 100))
    yield "not yet", bearer(claims(nbf=now + 10_000))
    yield "made in the future", bearer(claims(iat=now + 10_000))
    yield "an extension nobody knows", bearer(claims(), crit=["odd"], odd=1)
    for missing in ("iss", "sub", "aud", "iat", "exp"):
        yield f"no {missing}", bearer({name: value for name, value in claims().items() if name != missing})


@pytest.mark.parametrize("authorization", [pytest.param(token, id=why) for why, token in refused()])
def test_anything_but_a_service_token_is_refused(authorization: str) -> None:
    verifier = Verifier(SETTINGS)
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(Unauthenticated):
            verifier.verify(authorization)


def test_the_gateways_own_token_is_believed_again_and_again() -> None:
    token, verifier = ServiceToken(SETTINGS, "gw-1"), Verifier(SETTINGS)
    for _ in range(3):
        verifier.verify(token.current())


def test_a_clock_that_is_a_little_off_does_no_harm() -> None:
    now = int(time.time())
    Verifier(SETTINGS).verify(bearer(claims(iat=now + 9, exp=now + 309)))
    Verifier(SETTINGS).verify(bearer(claims(iat=now - 309, exp=now - 5)))


def test_during_a_rotation_both_keys_are_believed_and_the_first_signs() -> None:
    both = Settings(service_token_secret=f"{OTHER}, {KEY}")
    Verifier(both).verify(ServiceToken(SETTINGS, "old").current())
    Verifier(both).verify(ServiceToken(both, "new").current())
    with pytest.raises(Unauthenticated):
        Verifier(SETTINGS).verify(ServiceToken(both, "new").current())


def test_a_believed_token_is_not_believed_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, token = Verifier(SETTINGS), ServiceToken(SETTINGS, "gw-1").current()
    verifier.verify(token)
    later = time.time() + SETTINGS.service_token_seconds + SETTINGS.service_token_leeway_seconds
    monkeypatch.setattr(tokens, "_now", lambda: later)
    monkeypatch.setattr(jwt.api_jwt, "datetime", _At(later))
    with pytest.raises(Unauthenticated):
        verifier.verify(token)


def test_a_token_is_renewed_at_half_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    token = ServiceToken(SETTINGS, "gw-1")
    first, start = token.current(), time.monotonic()
    assert token.current() == first
    monkeypatch.setattr(time, "monotonic", lambda: start + SETTINGS.service_token_seconds / 2 + 1)
    monkeypatch.setattr(tokens, "_now", lambda: time.time() + 1)
    assert token.current() != first


def test_what_is_remembered_is_bounded() -> None:
    verifier = Verifier(SETTINGS)
    for number in range(BELIEVED_MAX + 10):
        verifier.verify(bearer(claims(sub=f"gw-{number}")))
    assert len(verifier._believed) == BELIEVED_MAX


class _At:
    """Stands for `datetime` in PyJWT at another time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self, tz: object = None) -> "_At":
        return self

    def timestamp(self) -> float:
        return self.seconds
