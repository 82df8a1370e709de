"""The gateway's service token: by it a worker knows that the caller named in a message was read by the gateway.

HS256, five minutes, audience = the workers. A user's token opens nothing here: other audience, type and key.
"""

import time
from collections.abc import Mapping
from typing import Any

import jwt

from infra.errors import Unauthenticated
from infra.settings import Settings

ALGORITHM = "HS256"
TYPE = "service+jwt"
ISSUER = "api-gateway"
AUDIENCE = "promo-workers"
SCHEME = "Bearer "
BELIEVED_MAX = 1_024
CLAIMS: Mapping[str, Any] = {"require": ["iss", "sub", "aud", "iat", "exp"]}


def _now() -> float:
    """Seconds since 1970: what the tokens of two machines have in common."""
    return time.time()  # noqa: TID251 - a token's life is wall time


def _keys(settings: Settings) -> list[str]:
    """The key that signs, then those of before that are still believed during a rotation."""
    return [key.strip() for key in settings.service_token_secret.split(",")]


class ServiceToken:
    """This process's own token, made anew at half its life. `instance` names the process in it."""

    def __init__(self, settings: Settings, instance: str) -> None:
        self._key = _keys(settings)[0]
        self._instance = instance
        self._seconds = settings.service_token_seconds
        self._token = ""
        self._renew_at = 0.0

    def current(self) -> str:
        """The value of the metadata `authorization`."""
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + self._seconds / 2
            self._token = SCHEME + self._sign()
        return self._token

    def _sign(self) -> str:
        now = int(_now())
        claims = {"iss": ISSUER, "sub": self._instance, "aud": AUDIENCE, "iat": now, "exp": now + self._seconds}
        return jwt.encode(claims, self._key, ALGORITHM, headers={"typ": TYPE})


class Verifier:
    """Believes service tokens: checked once, then remembered until they end. Failures are not remembered."""

    def __init__(self, settings: Settings) -> None:
        self._keys = _keys(settings)
        self._leeway = settings.service_token_leeway_seconds
        self._believed: dict[str, float] = {}

    def verify(self, authorization: str) -> None:
        """`authorization` as it stands in the metadata; empty when there is none. :raises Unauthenticated:"""
        until = self._believed.get(authorization)
        if until is not None and _now() < until:
            return
        self._believed.pop(authorization, None)
        if not authorization.startswith(SCHEME):
            raise Unauthenticated
        expires = self._check(authorization.removeprefix(SCHEME))
        if len(self._believed) >= BELIEVED_MAX:
            self._believed.pop(next(iter(self._believed)))
        self._believed[authorization] = expires + self._leeway

    def _check(self, token: str) -> float:
        for key in self._keys:
            try:
                whole = jwt.decode_complete(
                    token,
                    key,
                    algorithms=[ALGORITHM],
                    audience=AUDIENCE,
                    issuer=ISSUER,
                    leeway=self._leeway,
                    options=CLAIMS,  # type: ignore[arg-type]  # a mapping does where the stub wants its own dict type
                )
            except jwt.InvalidTokenError:
                continue
            if whole["header"].get("typ") == TYPE:
                return float(whole["payload"]["exp"])
        raise Unauthenticated
