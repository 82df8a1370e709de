"""Tokens of `promo token`."""

import jwt

from infra.local.tokens import LIFE_SECONDS, mint, mint_many

SECRET = "a secret of more than thirty-two bytes"


def decoded(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, SECRET, algorithms=["HS256"], audience="promo-api")
    return claims


def test_a_token_names_its_user_and_role_and_lives_a_day() -> None:
    claims = decoded(mint(SECRET, "alice", "admin"))

    assert {key: claims[key] for key in ("sub", "role", "aud")} == {"sub": "alice", "role": "admin", "aud": "promo-api"}
    assert int(str(claims["exp"])) - int(str(claims["iat"])) == LIFE_SECONDS == 86_400


def test_with_a_count_there_is_one_for_each_numbered_user() -> None:
    users = [decoded(token)["sub"] for token in mint_many(SECRET, "load", "user", 3)]

    assert users == ["load-1", "load-2", "load-3"]


def test_without_a_count_the_user_has_no_number() -> None:
    assert [decoded(token)["sub"] for token in mint_many(SECRET, "alice", "user", None)] == ["alice"]
