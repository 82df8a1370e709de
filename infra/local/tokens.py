"""Access tokens for operators, demos and load tests."""

import time

import jwt

from infra.local.platform import TOKEN_AUDIENCE

LIFE_SECONDS = 24 * 3600


def mint(secret: str, user_id: str, role: str, *, life_seconds: int = LIFE_SECONDS) -> str:
    """A user's token, as the edge would make it."""
    now = int(time.time())
    claims = {"sub": user_id, "role": role, "aud": TOKEN_AUDIENCE, "iat": now, "exp": now + life_seconds}
    return jwt.encode(claims, secret, algorithm="HS256")


def mint_many(secret: str, user_id: str, role: str, count: int | None) -> list[str]:
    """One token for `user_id`, or with a count one for each of `user_id-1` to `user_id-count`."""
    users = [user_id] if count is None else [f"{user_id}-{number}" for number in range(1, count + 1)]
    return [mint(secret, user, role) for user in users]
