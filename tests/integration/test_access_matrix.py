"""Who may ask what: every route of the gateway's table, and every method of the workers, for every kind of caller.

The table is the gateway's own. A route without a scene here fails, and so does a scene without a route.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import jwt
import orjson
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.app import BASE, ROUTES
from gateway.auth import AUDIENCE
from gateway.clients import SERVICES, Service
from gateway.endpoint import Ask, Route
from gateway.reader import Reader
from infra.caller import Caller, Role
from infra.errors import Refused
from infra.rpc.tokens import ServiceToken
from infra.settings import Settings
from tests.fixtures.gateways import Edge
from tests.fixtures.platforms import platform
from tests.fixtures.servers import Servers
from tests.fixtures.tracing import recorded

OWNER, STRANGER = "owner-of-things", "stranger"
DEADLINE_SECONDS = 5.0
WINDOW = {"start": "2020-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"}


@dataclass(frozen=True)
class Scene:
    """How a route is asked for something of the owner's: its path's values, its body, and whether it is the owner's."""

    path: Mapping[str, str]
    body: Mapping[str, Any] | None = None
    owned: bool = False


@dataclass(frozen=True)
class Things:
    """What there is: made by an admin, and by the owner."""

    policy: str
    product: str
    sale: str
    coupon: str
    order: str
    transaction: str


NEW_POLICY = {
    "title": "t", "description": "", "totalQuantity": 1000, "startTime": WINDOW["start"], "endTime": WINDOW["end"],
    "discountType": "FIXED", "discountValue": 1, "perUserLimit": 1000,
}  # fmt: skip


def scene(route: Route, things: Things) -> Scene:
    """How this route is asked. :raises KeyError: nobody said."""
    mine = {"userId": OWNER}
    new_sale = {
        "productId": things.product, "quantity": 1000, "discountPrice": 1, "startAt": WINDOW["start"],
        "endAt": WINDOW["end"],
    }  # fmt: skip
    scenes = {
        "POST /orders": Scene({}, {"timeSaleId": things.sale, "quantity": 1, **mine}, owned=True),
        "POST /coupons/issue": Scene({}, {"couponPolicyId": things.policy, **mine}, owned=True),
        "POST /coupons/{id}/use": Scene({"id": things.coupon}, {"orderAmount": 10}, owned=True),
        "POST /coupons/{id}/cancel": Scene({"id": things.coupon}, {}, owned=True),
        "GET /coupons/{id}": Scene({"id": things.coupon}, owned=True),
        "GET /coupons/user/{userId}": Scene(mine, owned=True),
        "POST /coupon-policies": Scene({}, NEW_POLICY),
        "GET /coupon-policies": Scene({}),
        "GET /coupon-policies/{id}": Scene({"id": things.policy}),
        "POST /points/earn": Scene({}, {"amount": 5, "description": "", **mine}, owned=True),
        "POST /points/use": Scene({}, {"amount": 1, "description": "", **mine}, owned=True),
        "POST /points/cancel": Scene({}, {"transactionId": things.transaction, "description": ""}),
        "GET /points/users/{userId}/balance": Scene(mine, owned=True),
        "GET /points/users/{userId}/history": Scene(mine, owned=True),
        "POST /products": Scene({}, {"name": "Mug", "price": 10}),
        "GET /products": Scene({}),
        "GET /products/{id}": Scene({"id": things.product}),
        "POST /time-sales": Scene({}, new_sale),
        "GET /time-sales": Scene({}),
        "GET /time-sales/{id}": Scene({"id": things.sale}),
        "GET /orders/{id}": Scene({"id": things.order}, owned=True),
        "GET /orders/user/{userId}": Scene(mine, owned=True),
        "GET /users/{userId}/wallet": Scene(mine, owned=True),
        "POST /auth/register": Scene({}, {"email": f"{uuid4().hex}@x.de", "name": "Ada", "password": "12345678"}),
        "POST /auth/login": Scene({}, {"email": "nobody@x.de", "password": "12345678"}),
        "GET /auth/profile": Scene({}),
        "GET /health": Scene({}),
        "GET /circuit-breakers": Scene({}),
    }
    return scenes[f"{route.method} {route.path}"]


@pytest.fixture(scope="module")
async def api(servers: Servers, valkey: str) -> AsyncIterator[Edge]:
    # Many failed logins and registrations come from one address here.
    with recorded():
        async with platform(servers.database_url, valkey, auth_throttle_limit=100_000) as running:
            yield running


@pytest.fixture(scope="module")
async def things(api: Edge) -> Things:
    async def made(path: str, body: Mapping[str, Any], user_id: str = "boss", role: Role = Role.ADMIN) -> str:
        response = await api.post(path, body, user_id=user_id, role=role)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    policy, product = await made("/coupon-policies", NEW_POLICY), await made("/products", {"name": "Mug", "price": 10})
    sale = await made("/time-sales", {
        "productId": product, "quantity": 1000, "discountPrice": 1, "startAt": WINDOW["start"], "endAt": WINDOW["end"],
    })  # fmt: skip
    return Things(
        policy=policy,
        product=product,
        sale=sale,
        coupon=await made("/coupons/issue", {"couponPolicyId": policy}, OWNER, Role.USER),
        order=await made("/orders", {"timeSaleId": sale, "quantity": 1}, OWNER, Role.USER),
        transaction=await made("/points/earn", {"userId": OWNER, "amount": 100, "description": ""}, "shop"),
    )


CALLERS = {
    "stranger": Caller(STRANGER, Role.USER),
    "owner": Caller(OWNER, Role.USER),
    "service": Caller("shop", Role.SERVICE),
    "admin": Caller("boss", Role.ADMIN),
}
TOKENLESS = ("none", "bad signature", "expired")


def authorization(api: Edge, who: str) -> dict[str, str]:
    if who in CALLERS:
        return api.bearer(CALLERS[who].user_id, CALLERS[who].role)
    now = int(time.time())
    claims = {"sub": OWNER, "role": "admin", "aud": AUDIENCE, "iat": now - 100, "exp": now + 100}
    if who == "bad signature":
        return {"Authorization": f"Bearer {jwt.encode(claims, 'x' * 40)}"}
    if who == "expired":
        secret = api.gateway.settings.jwt_secret
        return {"Authorization": f"Bearer {jwt.encode({**claims, 'exp': now - 60}, secret)}"}
    return {}


def denied(route: Route, given: Scene, who: str) -> bool:
    caller = CALLERS[who]
    return caller.role not in route.access or (given.owned and not caller.may_act_for(OWNER))


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("who", [*TOKENLESS, *CALLERS])
@pytest.mark.parametrize("route", ROUTES, ids=named)
async def test_a_route_lets_in_whom_the_table_names_and_only_to_what_is_theirs(
    api: Edge, things: Things, route: Route, who: str
) -> None:
    given = scene(route, things)
    path = BASE + route.path.replace("{id}", given.path.get("id", "")).replace("{userId}", given.path.get("userId", ""))
    response = await api.client.request(route.method, path, json=given.body, headers=authorization(api, who))
    if not route.access:
        assert response.status_code in (200, 201, 401)
        assert response.status_code != 401 or response.json()["detail"] == "Wrong email or password"
    elif who in TOKENLESS:
        assert (response.status_code, response.json()["code"]) == (401, "UNAUTHENTICATED")
    elif denied(route, given, who):
        assert (response.status_code, response.json()["code"]) == (403, "FORBIDDEN")
        assert OWNER not in response.text.replace(path, "")
    else:
        assert response.status_code in (200, 201, 404, 409), response.text


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("route", [route for route in ROUTES if route.call], ids=named)
async def test_a_worker_denies_for_itself_what_the_gateway_would_deny(
    api: Edge, things: Things, route: Route, who: str
) -> None:
    given = scene(route, things)
    assert route.call is not None
    request = route.call.build(ask_of(route, given, CALLERS[who]))
    outcome = await outcome_of(api, route.call.service, route.call.verb, request)
    if denied(route, given, who):
        assert outcome == "FORBIDDEN"
    else:
        assert outcome not in ("FORBIDDEN", "UNAUTHENTICATED", "UNAVAILABLE")


def ask_of(route: Route, given: Scene, caller: Caller) -> Ask[Any]:
    body: Any = (
        Reader(route.given).query(b"") if given.body is None else Reader(route.given).body(orjson.dumps(given.body))
    )
    ask = Ask(caller, body, 0.0, id=int(given.path.get("id", 0)), user_id=OWNER)
    ask.command_id, ask.fingerprint = uuid4(), b"\x01" * 33
    return ask


async def outcome_of(api: Edge, service: Service, verb: str, request: Message) -> str:
    deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    try:
        await api.gateway.clients.call(service, verb, request, deadline=deadline)
    except Refused as refused:
        return refused.code
    return "ok"


METHODS = [
    pytest.param(service, method, id=f"{service.word}.{method.name}")
    for service in SERVICES
    for method in service.descriptor.methods
]


def tokens() -> dict[str, str]:
    settings = Settings(service_name="test")
    now = int(time.time())
    claims = {"iss": "api-gateway", "sub": "x", "aud": "promo-workers", "iat": now, "exp": now + 60}
    secret, typed = settings.service_token_secret, {"typ": "service+jwt"}
    users = jwt.encode({"sub": OWNER, "role": "admin", "aud": AUDIENCE, "iat": now, "exp": now + 60}, secret)
    return {
        "none": "",
        "a user's": f"Bearer {users}",
        "another audience": f"Bearer {jwt.encode({**claims, 'aud': AUDIENCE}, secret, headers=typed)}",
        "another key": f"Bearer {jwt.encode(claims, 'x' * 40, headers=typed)}",
        "expired": f"Bearer {jwt.encode({**claims, 'exp': now - 60}, secret, headers=typed)}",
        "good, but nobody is named": ServiceToken(settings, "test").current(),
    }


@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_a_worker_is_no_back_door(api: Edge, service: Service, method: Any) -> None:
    (address,) = getattr(api.gateway.settings, f"{service.word}_addresses")
    message = GetMessageClass(method.input_type)()
    if "items" in method.input_type.fields_by_name:
        message.items.add(deadline_ms=1000)  # type: ignore[attr-defined]  # the class is made from the descriptor
    async with grpc.aio.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary(f"/{service.descriptor.full_name}/{method.name}")
        for name, token in tokens().items():
            metadata = (("authorization", token),) if token else ()
            answer = await said(ask(message.SerializeToString(), metadata=metadata, timeout=DEADLINE_SECONDS))
            # A batch call under a good token is answered; each item says no for itself.
            itself = name == "good, but nobody is named" and method.name.startswith("Batch")
            assert b"UNAUTHENTICATED" in answer if itself else answer is grpc.StatusCode.UNAUTHENTICATED, name


async def said(answer: Any) -> Any:
    try:
        return await answer
    except grpc.aio.AioRpcError as error:
        return error.code()


def test_every_route_has_its_scene() -> None:
    nothing = Things("1", "1", "1", "1", "1", "1")
    assert all(scene(route, nothing) for route in ROUTES)
