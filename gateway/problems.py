"""The one page where a refusal's code becomes a problem document (RFC 9457) and its facts become a sentence."""

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from gateway.clock import wall_now
from infra.errors import Fact, Kind, Refused, Unavailable, ValidationFailed

CONTENT_TYPE = "application/problem+json"
REPLAYED = (b"idempotency-replayed", b"true")
RETRY_SECONDS_MAX = 3

Facts = Mapping[str, Fact]
Headers = list[tuple[bytes, bytes]]


class MethodNotAllowed(Refused):
    """The path is known, the method is not one of its own; `allow` names those."""

    kind, code = Kind.INVALID, "METHOD_NOT_ALLOWED"


class UnsupportedMediaType(Refused):
    """The body is not plain `application/json`."""

    kind, code = Kind.INVALID, "UNSUPPORTED_MEDIA_TYPE"


class BodyTooLarge(Refused):
    """The body is longer than `body_size_max` bytes."""

    kind, code = Kind.LIMITED, "BODY_TOO_LARGE"


class EmailTaken(Refused):
    """Somebody registered this e-mail before."""

    kind, code = Kind.STATE, "EMAIL_TAKEN"


class SomeDown(Unavailable):
    """Not all processes answer; `services` says for each whether it is up or down."""

    def __init__(self, services: Mapping[str, str]) -> None:
        super().__init__()
        self.services = services


class Internal(Refused):
    """A bug of ours, or an answer nobody understands. It says nothing of its cause."""

    kind, code = Kind.UNAVAILABLE, "INTERNAL"


@dataclass(frozen=True)
class Problem:
    """How a code is told: HTTP status, title, and the sentence made of the facts and the upstream that refused."""

    status: int
    title: str
    sentence: Callable[[Facts, str], str]


def _says(sentence: str) -> Callable[[Facts, str], str]:
    return lambda facts, upstream: sentence


def _measured(sentence: str) -> Callable[[Facts, str], str]:
    return lambda facts, upstream: (
        f"{sentence}. Available: {facts.get('available', 0)}, Requested: {facts.get('requested', 0)}"
    )


def _by_upstream(sentences: Mapping[str, str], otherwise: str) -> Callable[[Facts, str], str]:
    return lambda facts, upstream: sentences.get(upstream, otherwise)


def _not_found(facts: Facts, upstream: str) -> str:
    return f"{facts.get('resource', 'Resource')} {facts.get('id', '')}".rstrip() + " not found"


def _unauthenticated(facts: Facts, upstream: str) -> str:
    return "Wrong email or password" if facts.get("resource") == "login" else "Missing or invalid access token"


def _minimum(facts: Facts, upstream: str) -> str:
    return f"Order amount must be at least {facts.get('requested', 0)}"


PROBLEMS: Final[Mapping[str, Problem]] = {
    "VALIDATION_FAILED": Problem(400, "Validation failed", _says("Request validation failed")),
    "UNAUTHENTICATED": Problem(401, "Unauthenticated", _unauthenticated),
    "FORBIDDEN": Problem(403, "Forbidden", _says("Not allowed for this user")),
    "NOT_FOUND": Problem(404, "Not found", _not_found),
    "METHOD_NOT_ALLOWED": Problem(405, "Method not allowed", _says("Method not allowed")),
    "SOLD_OUT": Problem(
        409, "Sold out", _by_upstream({"coupon": "Coupon sold out", "timesale": "Time sale sold out"}, "Sold out")
    ),
    "INSUFFICIENT_STOCK": Problem(409, "Insufficient stock", _measured("Insufficient stock")),
    "ALREADY_ISSUED": Problem(409, "Already issued", _says("Coupon already issued")),
    "USER_LIMIT": Problem(409, "Limit per user reached", _measured("Limit per user reached")),
    "NOT_ACTIVE": Problem(
        409,
        "Not active",
        _by_upstream({"coupon": "Coupon policy is not active", "timesale": "Time sale is not active"}, "Not active"),
    ),
    "INSUFFICIENT_POINTS": Problem(409, "Insufficient points", _measured("Insufficient points")),
    "WOULD_GO_NEGATIVE": Problem(409, "Balance would go negative", _measured("Balance would go negative")),
    "COUPON_EXPIRED": Problem(409, "Coupon expired", _says("Coupon has expired")),
    "COUPON_NOT_AVAILABLE": Problem(409, "Coupon not available", _says("Coupon is not available for use")),
    "COUPON_NOT_USED": Problem(409, "Coupon not used", _says("Only used coupons can be canceled")),
    "MINIMUM_ORDER_AMOUNT": Problem(409, "Minimum order amount", _minimum),
    "ALREADY_CANCELED": Problem(
        409,
        "Already canceled",
        _by_upstream(
            {"coupon": "Coupon already canceled", "point": "Transaction already canceled"}, "Already canceled"
        ),
    ),
    "EMAIL_TAKEN": Problem(409, "E-mail taken", _says("E-mail is taken")),
    "BODY_TOO_LARGE": Problem(413, "Body too large", _says("Request body too large")),
    "UNSUPPORTED_MEDIA_TYPE": Problem(415, "Unsupported media type", _says("Body must be application/json")),
    "IDEMPOTENCY_KEY_REUSED": Problem(
        422, "Idempotency key reused", _says("Idempotency key was used with another request")
    ),
    "RATE_LIMITED": Problem(429, "Too many requests", _says("Too many requests")),
    "INTERNAL": Problem(500, "Internal error", _says("Internal error")),
    "UNAVAILABLE": Problem(503, "Service unavailable", _says("Service temporarily unavailable")),
    "DEADLINE_EXCEEDED": Problem(
        504, "Deadline exceeded", _says("No answer in time; repeat with the same Idempotency-Key")
    ),
}

_NUMBERS = ("available", "requested", "missing")
_IDS = ("coupon_id", "order_id")
RETRIED = frozenset({"RATE_LIMITED", "UNAVAILABLE", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True)
class Document:
    """A problem as it leaves: status, body, and the headers that belong to it."""

    status: int
    body: bytes
    headers: Headers


def document(refusal: Refused, *, upstream: str, instance: str, trace_id: str) -> Document:
    """The problem document of a refusal.

    :param upstream: the worker that refused ("coupon"), or "" for the gateway itself
    :param instance: path of the request
    """
    code = refusal.code if refusal.code in PROBLEMS else "INTERNAL"
    problem = PROBLEMS[code]
    facts = refusal.facts if code == refusal.code else {}
    headers: Headers = [(b"content-type", CONTENT_TYPE.encode())]
    if refusal.replayed:
        headers.append(REPLAYED)
    content: dict[str, Any] = {
        "type": problem_type(code),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.sentence(facts, upstream),
        "instance": instance,
        "code": code,
        "traceId": trace_id,
    }
    content |= {name: int(str(facts[name])) for name in _NUMBERS if name in facts}
    content |= {name.replace("_id", "Id"): str(facts[name]) for name in _IDS if name in facts}
    retry_at = _retry_at(code, facts)
    if retry_at is not None:
        content["retryAt"] = retry_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if code in RETRIED:
            headers.append((b"retry-after", str(_seconds_until(retry_at)).encode()))
    if isinstance(refusal, ValidationFailed):
        content["errors"] = [{"field": field, "message": message} for field, message in refusal.fields.items()]
    if isinstance(refusal, SomeDown):
        content["services"] = refusal.services
    if code == "UNAUTHENTICATED":
        headers.append((b"www-authenticate", b'Bearer realm="promo-api"'))
    if code == "METHOD_NOT_ALLOWED":
        headers.append((b"allow", str(facts.get("allow", "")).encode()))
    return Document(problem.status, orjson.dumps(content), headers)


def problem_type(code: str) -> str:
    """The URI reference that names a code's kind of problem."""
    return "/problems/" + code.lower().replace("_", "-")


def _retry_at(code: str, facts: Facts) -> datetime | None:
    told = facts.get("retry_at")
    if isinstance(told, datetime):
        return told
    if code in RETRIED:  # spread out, so that those who were refused together do not come back together
        return wall_now() + timedelta(seconds=1 + secrets.randbelow(RETRY_SECONDS_MAX * 1000 - 1000) / 1000)
    return None


def _seconds_until(at: datetime) -> int:
    return max(1, math.ceil((at - wall_now()).total_seconds()))
