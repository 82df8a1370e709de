"""The document itself: a path for each route, with who may use it, what it takes, what it answers and refuses."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from gateway import idempotency, problems
from gateway.endpoint import ADMIN, ANYONE, PUBLIC, SERVICE, USER, Route
from gateway.fields import Schema
from gateway.openapi import local, samples, schemas

TITLE = "Promotion platform"
VERSION = "1.0"

# What a verb may refuse beside what any may.
REFUSALS: Final[Mapping[str, Sequence[str]]] = {
    "CreateOrder": ("NOT_FOUND", "NOT_ACTIVE", "SOLD_OUT", "INSUFFICIENT_STOCK", "USER_LIMIT"),
    "IssueCoupon": ("NOT_FOUND", "NOT_ACTIVE", "SOLD_OUT", "ALREADY_ISSUED", "USER_LIMIT"),
    "UseCoupon": ("NOT_FOUND", "COUPON_NOT_AVAILABLE", "COUPON_EXPIRED", "MINIMUM_ORDER_AMOUNT"),
    "CancelCoupon": ("NOT_FOUND", "ALREADY_CANCELED", "COUPON_NOT_USED"),
    "UsePoints": ("INSUFFICIENT_POINTS",),
    "CancelPoints": ("NOT_FOUND", "ALREADY_CANCELED", "WOULD_GO_NEGATIVE"),
    "CreateTimeSale": ("NOT_FOUND",),
    "GetCoupon": ("NOT_FOUND",),
    "GetCouponPolicy": ("NOT_FOUND",),
    "GetProduct": ("NOT_FOUND",),
    "GetTimeSale": ("NOT_FOUND",),
    "GetOrder": ("NOT_FOUND",),
}
_WHO = {
    PUBLIC: "Public.",
    ADMIN: "Role admin.",
    SERVICE: "Role service or admin.",
    USER: "Role user, for itself only, or admin.",
    ANYONE: "Role user, for what is its own only; service; admin.",
}
_PARAMETER = re.compile(r"{(\w+)}")
_ID = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$", "example": "42"}
_USER_ID = {"type": "string", "pattern": "^[A-Za-z0-9_.:@-]{1,64}$", "example": "u-1"}
_PROBLEM = "application/problem+json"
_STATUSES = {200: "What was asked for.", 201: "What was made."}


def document(base: str, routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document, for the routes below `base`."""
    messages = schemas.Messages()
    bodies: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        paths.setdefault(base + route.path, {})[route.method.lower()] = _operation(route, messages, bodies)
    codes = sorted(problems.PROBLEMS)
    parts = {**messages.schemas, **bodies, **local.SCHEMAS, "Problem": schemas.problem(codes)}
    return {
        "openapi": "3.0.3",
        "info": {"title": TITLE, "version": VERSION, "description": samples.DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": dict(sorted(parts.items())),
            "responses": {".".join(codes): _refused(codes) for codes in _together(routes)},
            "examples": {code: {"summary": problems.PROBLEMS[code].title, "value": _example(code)} for code in codes},
            "headers": _HEADERS,
        },
    }


def _operation(route: Route, messages: schemas.Messages, bodies: dict[str, Schema]) -> dict[str, Any]:
    summary = (route.function.__doc__ or "").splitlines()[0].rstrip(".")
    subject = route.path.split("/")[1]
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "tags": [subject],
        "summary": summary,
        "description": _WHO[route.access],
        "security": [{"bearer": []}] if route.access else [],
        "parameters": [*_path_parameters(route), *_other_parameters(route)],
        "responses": {str(route.status): _success(route, messages)}
        | {str(status): {"$ref": f"#/components/responses/{'.'.join(codes)}"} for status, codes in _refusals(route)},
    }
    if route.method == "POST":
        bodies[route.given.__name__] = schemas.of_model(route.given)
        content = {"application/json": {"schema": schemas.reference(route.given.__name__)}}
        operation["requestBody"] = {"required": bool(route.given.model_fields), "content": content}
    return operation


def _operation_id(route: Route) -> str:
    name = route.call.verb if route.call else route.path.split("/")[-1].title().replace("-", "")
    return name[0].lower() + name[1:]


def _path_parameters(route: Route) -> Iterable[dict[str, Any]]:
    for name in _PARAMETER.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": _USER_ID if name == "userId" else _ID}


def _other_parameters(route: Route) -> Iterable[dict[str, Any]]:
    if route.method == "GET":
        for name, schema in schemas.of_model(route.given)["properties"].items():
            plain = {key: value for key, value in schema.items() if key not in {"nullable", "description"}}
            yield {"name": name, "in": "query", "description": schema["description"], "schema": plain}
    elif route.keyed:
        yield {
            "name": idempotency.HEADER,
            "in": "header",
            "description": "1 to 255 visible ASCII characters: the same key, the same effect, once",
            "schema": {"type": "string", "pattern": r"^[!#-~][!-~]{0,254}$"},
            "example": "order-7f1c",
        }


def _success(route: Route, messages: schemas.Messages) -> dict[str, Any]:
    if route.call is None:
        schema = schemas.reference(local.NAMES[route.path])
    else:
        schema = messages.reference(route.call.service.resource(route.call.verb))
    headers = {name: _header(name) for name in ("X-Request-ID", "traceparent")}
    headers |= {name: _header(name) for name in ("RateLimit", "RateLimit-Policy") if route.limits}
    headers |= {name: _header(name) for name in ("Idempotency-Replayed",) if route.keyed}
    return {
        "description": _STATUSES[route.status],
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }


def _refusals(route: Route) -> list[tuple[int, list[str]]]:
    """The codes a route may refuse with, by their status."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(set(_codes(route))):
        by_status.setdefault(problems.PROBLEMS[code].status, []).append(code)
    return sorted(by_status.items())


def _together(routes: Iterable[Route]) -> list[tuple[str, ...]]:
    """The codes that appear together, under one status of one route."""
    return sorted({tuple(codes) for route in routes for _, codes in _refusals(route)})


def _codes(route: Route) -> Iterable[str]:
    yield from ("INTERNAL", "UNAVAILABLE")
    yield from REFUSALS.get(route.call.verb, ()) if route.call else local.REFUSALS.get(route.path, ())
    if route.access:
        yield from ("UNAUTHENTICATED", "FORBIDDEN")
    if route.limits:
        yield from ("RATE_LIMITED", "DEADLINE_EXCEEDED")
    if route.method == "POST":
        yield from ("BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
    if route.method == "POST" or "{" in route.path or route.given.model_fields:
        yield "VALIDATION_FAILED"
    if route.keyed:
        yield "IDEMPOTENCY_KEY_REUSED"


def _refused(codes: Sequence[str]) -> dict[str, Any]:
    names = ["X-Request-ID", "traceparent"]
    if set(codes) & problems.RETRIED:
        names.append("Retry-After")
    return {
        "description": ", ".join(codes),
        "headers": {name: _header(name) for name in names},
        "content": {
            _PROBLEM: {
                "schema": schemas.reference("Problem"),
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }


def _example(code: str) -> Any:
    upstream = {"SOLD_OUT": "timesale", "NOT_ACTIVE": "timesale", "ALREADY_CANCELED": "coupon"}.get(code, "")
    told = problems.document(
        samples.refusal(code), upstream=upstream, instance="/api/v1/orders", trace_id=samples.TRACE_ID
    )
    return orjson.loads(told.body)


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _described(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_HEADERS: Final[Mapping[str, Any]] = {
    "X-Request-ID": _described("The request's id: the client's, if it sent a sane one, else ours.", "5f1c"),
    "traceparent": _described("The trace of this request (W3C).", f"00-{samples.TRACE_ID}-00f067aa0ba902b7-01"),
    "RateLimit": _described("What is left, and in how many seconds all is there again.", '"default";r=99;t=1'),
    "RateLimit-Policy": _described("How many requests in how many seconds.", '"default";q=100;w=60'),
    "Retry-After": _described("In how many seconds asking again may help.", "1"),
    "Idempotency-Replayed": _described("`true` when this is the answer of an earlier request.", "true"),
}
