"""Who asks: users' access tokens and users' passwords.

A token is a JWT signed HS256 with {sub, role, aud: promo-api, iat, exp}. It cannot be revoked: it lives until `exp`.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Self

import jwt

from gateway.clock import wall_now
from gateway.fields import is_user_id
from gateway.settings import GatewaySettings
from infra.caller import Caller, Role
from infra.errors import Overloaded, Unauthenticated

AUDIENCE = "promo-api"
TOKEN_LENGTH_MAX = 4096
LEEWAY_SECONDS = 5

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1


class WrongPassword(Unauthenticated):
    """The e-mail is unknown or the password is not its own: the answer, and the time it takes, do not say which."""

    def __init__(self) -> None:
        super().__init__(resource="login")


class Tokens:
    """Mints and reads access tokens. Read ones are kept, at most `cache_size_max`, until they expire."""

    def __init__(self, secrets: str, *, ttl_seconds: int, cache_size_max: int) -> None:
        """`secrets` is a comma list: the first key signs, the others are still believed, during a rotation."""
        self._keys = [key.strip() for key in secrets.split(",")]
        self._ttl = timedelta(seconds=ttl_seconds)
        self._cache_size_max = cache_size_max
        self._known: dict[str, tuple[Caller, float]] = {}

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """With this process's keys and limits."""
        return cls(
            settings.jwt_secret,
            ttl_seconds=settings.jwt_expiration,
            cache_size_max=settings.token_cache_size_max,
        )

    def mint(self, user_id: str, role: Role) -> str:
        """A fresh token for `user_id`."""
        at = wall_now()
        claims = {"sub": user_id, "role": role.value, "aud": AUDIENCE, "iat": at, "exp": at + self._ttl}
        return jwt.encode(claims, self._keys[0], algorithm="HS256")

    def read(self, header: str) -> Caller:
        """The caller named by an `Authorization` header. :raises Unauthenticated: for whatever is not a good token."""
        scheme, _, token = header.partition(" ")
        known = self._known.get(token)
        if known is not None and scheme.lower() == "bearer":
            if known[1] > time.monotonic():
                return known[0]
            del self._known[token]
        if scheme.lower() != "bearer" or not 0 < len(token) <= TOKEN_LENGTH_MAX:
            raise Unauthenticated()
        return self._verify(token)

    def _verify(self, token: str) -> Caller:
        claims, header = self._open(token)
        try:
            caller = Caller(user_id=claims["sub"], role=Role(claims["role"]))
            left = float(claims["exp"]) + LEEWAY_SECONDS - wall_now().timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            raise Unauthenticated() from None
        if not is_user_id(caller.user_id) or str(header.get("typ", "JWT")).upper() != "JWT":
            raise Unauthenticated()
        if len(self._known) >= self._cache_size_max:
            del self._known[next(iter(self._known))]
        self._known[token] = (caller, time.monotonic() + left)
        return caller

    def _open(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        for key in self._keys:
            try:
                whole = jwt.decode_complete(
                    token,
                    key,
                    algorithms=["HS256"],
                    audience=AUDIENCE,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iat", "sub", "aud"]},
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
                break
            return whole["payload"], whole["header"]
        raise Unauthenticated()


class Passwords:
    """Hashes passwords with scrypt (16 MiB, about 40 ms) in threads of their own, so that the event loop stays free.

    :raises Overloaded: when more than `queue_max` wait.
    """

    def __init__(self, *, threads_max: int, queue_max: int) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="scrypt")
        self._queue_max = queue_max
        self._waiting = 0
        self._nobody = _hash("a password nobody has", b"a salt of 16 byt")

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """With this process's limits."""
        return cls(threads_max=settings.password_threads_max, queue_max=settings.password_queue_max)

    async def hash(self, password: str) -> str:
        """What is stored of a password."""
        return await self._run(password, secrets.token_bytes(16))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether the password is the stored one; None, an unknown user, takes the same time and is False."""
        salt = base64.b64decode((stored or self._nobody).split("$")[4])
        hashed = await self._run(password, salt)
        return hmac.compare_digest(hashed, stored or self._nobody) and stored is not None

    async def _run(self, password: str, salt: bytes) -> str:
        if self._waiting >= self._queue_max:
            raise Overloaded()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _hash, password, salt)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the threads; what waits is given up."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _hash(password: str, salt: bytes) -> str:
    key = hashlib.scrypt(password.encode(), salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    encoded = [base64.b64encode(part).decode() for part in (salt, key)]
    return "$".join(["scrypt", str(_SCRYPT_N), str(_SCRYPT_R), str(_SCRYPT_P), *encoded])
