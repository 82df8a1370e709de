"""Registration, login, profile: real Postgres, real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import jwt
import pytest

from gateway.settings import GatewaySettings
from infra.caller import Role
from tests.conftest import MakeDatabase
from tests.fixtures.databases import GATEWAY
from tests.fixtures.gateways import Edge, edge

ADA = {"email": "Ada@Example.com", "name": "Ada", "password": "correct horse"}


@pytest.fixture
async def settings(make_database: MakeDatabase, redis_url: str) -> GatewaySettings:
    return GatewaySettings(
        database_url=await make_database(GATEWAY),
        redis_url=redis_url,
        throttle_timeout_seconds=2,
        redis_timeout_seconds=2,
    )


@pytest.fixture
async def api(settings: GatewaySettings) -> AsyncIterator[Edge]:
    async with edge(settings) as running:
        yield running


async def ask(api: Edge, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    response = await api.client.post(f"/api/v1/auth/{what}", json=body, headers={"Idempotency-Key": "a key"})
    return response.status_code, response.json()


async def test_who_registers_gets_a_token_that_is_its_own(api: Edge) -> None:
    status, body = await ask(api, "register", ADA)
    assert status == 201
    assert body["user"] == {"id": "1", "email": "ada@example.com", "name": "Ada", "role": "user"}
    claims = jwt.decode(body["accessToken"], options={"verify_signature": False})
    assert (claims["sub"], claims["role"], claims["aud"]) == ("1", "user", "promo-api")
    assert claims["exp"] - claims["iat"] == 86_400
    profile = await api.client.get("/api/v1/auth/profile", headers={"Authorization": f"Bearer {body['accessToken']}"})
    assert (profile.status_code, profile.json()) == (200, body["user"])


async def test_who_logs_in_gets_a_token_whatever_the_case_of_the_e_mail(api: Edge) -> None:
    await ask(api, "register", ADA)
    status, body = await ask(api, "login", {"email": "ADA@example.COM", "password": "correct horse"})
    assert status == 200
    assert body["user"]["id"] == "1"


async def test_an_e_mail_registers_once_even_in_a_race(api: Edge) -> None:
    answers = await asyncio.gather(*(ask(api, "register", ADA) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
    taken = next(body for status, body in answers if status == 409)
    assert (taken["code"], taken["detail"]) == ("EMAIL_TAKEN", "E-mail is taken")


async def test_a_wrong_password_and_an_unknown_e_mail_are_told_alike(api: Edge) -> None:
    await ask(api, "register", ADA)
    wrong = await ask(api, "login", {"email": "ada@example.com", "password": "wrong horse"})
    unknown = await ask(api, "login", {"email": "eve@example.com", "password": "wrong horse"})
    assert wrong[0] == unknown[0] == 401
    assert wrong[1]["detail"] == unknown[1]["detail"] == "Wrong email or password"
    assert {**wrong[1], "traceId": ""} == {**unknown[1], "traceId": ""}


async def test_a_short_password_is_refused_and_a_long_one_too(api: Edge) -> None:
    for password in ("1234567", "x" * 129):
        status, body = await ask(api, "register", {**ADA, "password": password})
        assert status == 400
        assert body["errors"] == [{"field": "password", "message": "must be a text of 8 to 128 characters, not blank"}]


async def test_a_role_cannot_be_asked_for(api: Edge) -> None:
    status, body = await ask(api, "register", {**ADA, "role": "admin"})
    assert (status, body["errors"][0]["field"]) == (400, "role")


async def test_nothing_of_a_password_is_stored_but_its_hash(api: Edge, settings: GatewaySettings) -> None:
    await ask(api, "register", ADA)
    conn = await asyncpg.connect(settings.database_url)
    rows = await conn.fetch("SELECT * FROM users")
    await conn.close()
    assert [row["password_hash"][:17] for row in rows] == ["scrypt$16384$8$1$"]
    assert "correct horse" not in str([dict(row) for row in rows])


async def test_registration_and_login_have_tight_limits_of_their_own(settings: GatewaySettings) -> None:
    async with edge(settings.model_copy(update={"auth_throttle_limit": 2})) as api:
        for _ in range(2):
            assert (await ask(api, "login", {"email": "eve@example.com", "password": "wrong horse"}))[0] == 401
        response = await api.client.post("/api/v1/auth/login", json={})
        assert response.status_code == 429
        assert response.headers["ratelimit-policy"] == '"login";q=2;w=60'
        assert (await ask(api, "register", ADA))[0] == 201


async def test_behind_our_proxy_each_client_has_its_own_limit(settings: GatewaySettings) -> None:
    proxied = settings.model_copy(update={"auth_throttle_limit": 1, "trusted_proxy_hops": 1})

    async def login(api: Edge, forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return (await api.client.post("/api/v1/auth/login", json={}, headers=headers)).status_code

    async with edge(proxied) as api:
        assert await login(api, "203.0.113.7") == 400
        assert await login(api, "198.51.100.1, 203.0.113.7") == 429, "what the client itself wrote counts for nothing"
        assert await login(api, "203.0.113.8") == 400
        assert await login(api, "2001:db8::1") == 400
        assert await login(api, "2001:db8::2") == 429, "one customer has a /64"
    async with edge(settings.model_copy(update={"auth_throttle_limit": 1})) as api:
        assert await login(api, "203.0.113.9") == 400
        assert await login(api, "203.0.113.10") == 429, "nobody is believed without proxies"


async def test_a_token_of_somebody_who_never_registered_has_no_profile(api: Edge) -> None:
    for name in ("u-1", "99", "9" * 30):
        response = await api.get("/auth/profile", user_id=name)
        assert (response.status_code, response.json()["detail"]) == (404, f"User {name} not found")


async def test_a_slow_database_is_given_up_at_the_deadline(settings: GatewaySettings) -> None:
    blocker = await asyncpg.connect(settings.database_url)
    patient = {"request_deadline_seconds": 0.3, "lock_timeout_ms": 2000}
    async with edge(settings.model_copy(update=patient)) as api, blocker.transaction():
        await blocker.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        started = asyncio.get_running_loop().time()
        status, body = await ask(api, "login", {"email": "ada@example.com", "password": "correct horse"})
        assert (status, body["code"]) == (504, "DEADLINE_EXCEEDED")
        assert asyncio.get_running_loop().time() - started < 1
    await blocker.close()


async def test_without_postgres_it_is_unavailable(redis_url: str) -> None:
    away = GatewaySettings(database_url="postgresql://nobody@127.0.0.1:9/none", redis_url=redis_url)
    async with edge(away) as api:
        status, body = await ask(api, "login", {"email": "ada@example.com", "password": "correct horse"})
        assert (status, body["code"]) == (503, "UNAVAILABLE")
        assert (await api.get("/auth/profile", user_id="1", role=Role.USER)).status_code == 503
