"""The REST API as it was promised: a table written by hand, so that no route goes or changes its audience unseen."""

import pytest

from gateway.app import ROUTES
from gateway.endpoint import Route
from infra.caller import Role

USER, SERVICE, ADMIN = Role.USER, Role.SERVICE, Role.ADMIN
PUBLIC: set[Role] = set()
SELF = {USER, ADMIN}
ALL = {USER, SERVICE, ADMIN}
MACHINES = {SERVICE, ADMIN}
OPERATORS = {ADMIN}

PROMISED = {
    "POST /auth/register": (PUBLIC, 201),
    "POST /auth/login": (PUBLIC, 200),
    "GET /auth/profile": (ALL, 200),
    "GET /health": (PUBLIC, 200),
    "GET /circuit-breakers": (OPERATORS, 200),
    "POST /coupon-policies": (OPERATORS, 201),
    "GET /coupon-policies/{id}": (ALL, 200),
    "GET /coupon-policies": (ALL, 200),
    "POST /coupons/issue": (SELF, 201),
    "POST /coupons/{id}/use": (ALL, 200),
    "POST /coupons/{id}/cancel": (ALL, 200),
    "GET /coupons/{id}": (ALL, 200),
    "GET /coupons/user/{userId}": (ALL, 200),
    "POST /points/earn": (MACHINES, 201),
    "POST /points/use": (ALL, 201),
    "POST /points/cancel": (MACHINES, 201),
    "GET /points/users/{userId}/balance": (ALL, 200),
    "GET /points/users/{userId}/history": (ALL, 200),
    "POST /products": (OPERATORS, 201),
    "GET /products/{id}": (ALL, 200),
    "GET /products": (ALL, 200),
    "POST /time-sales": (OPERATORS, 201),
    "GET /time-sales/{id}": (ALL, 200),
    "GET /time-sales": (ALL, 200),
    "POST /orders": (SELF, 201),
    "GET /orders/{id}": (ALL, 200),
    "GET /orders/user/{userId}": (ALL, 200),
    "GET /users/{userId}/wallet": (ALL, 200),
}


def test_the_routes_are_those_that_were_promised() -> None:
    assert sorted(f"{route.method} {route.path}" for route in ROUTES) == sorted(PROMISED)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_is_for_whom_it_was_promised_and_answers_so(route: Route) -> None:
    audience, status = PROMISED[f"{route.method} {route.path}"]
    assert set(route.access) == audience
    assert route.status == status
