"""Schemas of what the gateway itself answers, without a worker's message behind it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.fields import Schema
from gateway.openapi.schemas import reference

# By the route's path: the schema of its answer, and what it refuses beside what any route may.
NAMES: Final[Mapping[str, str]] = {
    "/auth/register": "Session",
    "/auth/login": "Session",
    "/auth/profile": "User",
    "/health": "Health",
    "/circuit-breakers": "CircuitBreakers",
    "/users/{userId}/wallet": "Wallet",
}
REFUSALS: Final[Mapping[str, Sequence[str]]] = {
    "/auth/register": ("EMAIL_TAKEN",),
    "/auth/login": ("UNAUTHENTICATED",),
    "/auth/profile": ("NOT_FOUND",),
}

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(example: Any = None, **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return schema if example is None else {**schema, "example": example}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_USER = {"id": "1", "email": "ada@example.com", "name": "Ada", "role": "user"}
_SERVICES = {"api-gateway": "up", "coupon-service": "up", "point-service": "up", "timesale-service": "up"}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "User": _object(_USER, id=_TEXT, email=_TEXT, name=_TEXT, role={"type": "string", "enum": ["user", "admin"]}),
    "Session": _object({"user": _USER, "accessToken": "eyJhbGciOi..."}, user=reference("User"), accessToken=_TEXT),
    "Health": _object(
        {"services": _SERVICES},
        services={"type": "object", "additionalProperties": {"type": "string", "enum": ["up", "down"]}},
    ),
    "CircuitBreakers": _object(circuitBreakers=_list(reference("CircuitBreaker"))),
    "CircuitBreaker": _object(
        name=_TEXT,
        state={"type": "string", "enum": ["CLOSED", "OPEN", "HALF_OPEN"]},
        counts=_object(successes=_COUNT, failures=_COUNT, rejected=_COUNT),
    ),
    "Wallet": _object(
        userId=_TEXT,
        coupons={**_list(reference("Coupon")), "nullable": True},
        balance={"type": "integer", "format": "int64", "nullable": True},
        orders={**_list(reference("Order")), "nullable": True},
        partial={"type": "boolean"},
        unavailable=_list(_TEXT),
    ),
}
