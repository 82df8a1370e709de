"""Codes become problem documents, all of them, with the exact sentences."""

import importlib
import pkgutil
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

import coupon
import gateway
import infra
import point
import timesale
from gateway import problems
from gateway.auth import WrongPassword
from gateway.problems import PROBLEMS, document
from infra import errors
from infra.errors import Fact, Kind, NotFound, Refused, ValidationFailed

SENTENCES = [
    (NotFound("Coupon policy", 7), "coupon", 404, "Coupon policy 7 not found"),
    (errors.Unauthenticated(), "", 401, "Missing or invalid access token"),
    (WrongPassword(), "", 401, "Wrong email or password"),
    (errors.Forbidden(), "", 403, "Not allowed for this user"),
    (Refused.of(Kind.STATE, "SOLD_OUT", {}), "coupon", 409, "Coupon sold out"),
    (Refused.of(Kind.STATE, "SOLD_OUT", {}), "timesale", 409, "Time sale sold out"),
    (Refused.of(Kind.STATE, "INSUFFICIENT_STOCK", {"available": 2, "requested": 3}), "timesale", 409,
     "Insufficient stock. Available: 2, Requested: 3"),
    (Refused.of(Kind.STATE, "ALREADY_ISSUED", {"coupon_id": "3"}), "coupon", 409, "Coupon already issued"),
    (Refused.of(Kind.STATE, "USER_LIMIT", {"available": 0, "requested": 1}), "timesale", 409,
     "Limit per user reached. Available: 0, Requested: 1"),
    (Refused.of(Kind.STATE, "NOT_ACTIVE", {}), "coupon", 409, "Coupon policy is not active"),
    (Refused.of(Kind.STATE, "NOT_ACTIVE", {}), "timesale", 409, "Time sale is not active"),
    (Refused.of(Kind.STATE, "INSUFFICIENT_POINTS", {"available": 5, "requested": 9}), "point", 409,
     "Insufficient points. Available: 5, Requested: 9"),
    (Refused.of(Kind.STATE, "WOULD_GO_NEGATIVE", {"available": 5, "requested": 9}), "point", 409,
     "Balance would go negative. Available: 5, Requested: 9"),
    (Refused.of(Kind.STATE, "COUPON_EXPIRED", {}), "coupon", 409, "Coupon has expired"),
    (Refused.of(Kind.STATE, "COUPON_NOT_AVAILABLE", {}), "coupon", 409, "Coupon is not available for use"),
    (Refused.of(Kind.STATE, "COUPON_NOT_USED", {}), "coupon", 409, "Only used coupons can be canceled"),
    (Refused.of(Kind.STATE, "ALREADY_CANCELED", {}), "coupon", 409, "Coupon already canceled"),
    (Refused.of(Kind.STATE, "ALREADY_CANCELED", {}), "point", 409, "Transaction already canceled"),
    (Refused.of(Kind.STATE, "MINIMUM_ORDER_AMOUNT", {"available": 9000, "requested": 10000}), "coupon", 409,
     "Order amount must be at least 10000"),
    (errors.KeyReused(), "coupon", 422, "Idempotency key was used with another request"),
    (problems.BodyTooLarge(), "", 413, "Request body too large"),
    (errors.RateLimited(), "", 429, "Too many requests"),
    (errors.Unavailable(), "coupon", 503, "Service temporarily unavailable"),
    (errors.Overloaded(), "coupon", 503, "Service temporarily unavailable"),
    (errors.DeadlineExceeded(), "coupon", 504, "No answer in time; repeat with the same Idempotency-Key"),
    (problems.EmailTaken(), "", 409, "E-mail is taken"),
    (problems.MethodNotAllowed(allow="GET"), "", 405, "Method not allowed"),
    (problems.UnsupportedMediaType(), "", 415, "Body must be application/json"),
    (problems.Internal(), "", 500, "Internal error"),
    (ValidationFailed({}), "", 400, "Request validation failed"),
]  # fmt: skip


def told(refusal: Refused, upstream: str = "") -> tuple[dict[str, Any], dict[bytes, bytes]]:
    found = document(refusal, upstream=upstream, instance="/api/v1/x", trace_id="0" * 32)
    return orjson.loads(found.body), dict(found.headers)


@pytest.mark.parametrize(("refusal", "upstream", "status", "detail"), SENTENCES)
def test_a_refusal_has_its_status_and_sentence(refusal: Refused, upstream: str, status: int, detail: str) -> None:
    body, headers = told(refusal, upstream)
    assert (body["status"], body["detail"], body["code"]) == (status, detail, refusal.code)
    assert headers[b"content-type"] == b"application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "code", "traceId"} <= set(body)


def test_every_problem_has_a_test_of_its_sentence() -> None:
    assert {refusal.code for refusal, *_ in SENTENCES} == set(PROBLEMS)


def test_every_code_has_its_problem_and_every_problem_its_code() -> None:
    for package in (coupon, gateway, infra, point, timesale):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and ".local" not in module.name:
                importlib.import_module(module.name)
    codes, left = set(), [Refused]
    while left:
        each = left.pop()
        left += each.__subclasses__()
        if hasattr(each, "code") and each.__module__.split(".")[0] != "tests":
            codes.add(each.code)
    assert codes == set(PROBLEMS)


def test_measured_refusals_say_their_measure_in_fields() -> None:
    facts: dict[str, Fact] = {
        "available": 2,
        "requested": 3,
        "missing": 1,
        "retry_at": datetime(2026, 5, 1, 9, tzinfo=UTC),
    }
    body, headers = told(Refused.of(Kind.STATE, "INSUFFICIENT_STOCK", facts), "timesale")
    assert {name: body[name] for name in ("available", "requested", "missing", "retryAt")} == {
        "available": 2, "requested": 3, "missing": 1, "retryAt": "2026-05-01T09:00:00.000Z",
    }  # fmt: skip
    assert b"retry-after" not in headers


def test_an_already_issued_coupon_is_named() -> None:
    assert told(Refused.of(Kind.STATE, "ALREADY_ISSUED", {"coupon_id": "31"}), "coupon")[0]["couponId"] == "31"


@pytest.mark.parametrize("refusal", [errors.RateLimited(), errors.Unavailable(), errors.DeadlineExceeded()])
def test_who_may_try_again_is_told_when(refusal: Refused) -> None:
    body, headers = told(refusal)
    assert 1 <= int(headers[b"retry-after"]) <= 4
    assert body["retryAt"].endswith("Z")


def test_wrong_fields_are_listed() -> None:
    body, _ = told(ValidationFailed({"quantity": "must be more"}))
    assert body["errors"] == [{"field": "quantity", "message": "must be more"}]


def test_a_code_nobody_knows_is_an_internal_error_without_its_facts() -> None:
    body, _ = told(Refused.of(Kind.STATE, "SECRET_SQL", {"available": 1, "resource": "users_email_key"}))
    assert (body["status"], body["code"], body["detail"]) == (500, "INTERNAL", "Internal error")
    assert "available" not in body


def test_a_missing_token_is_answered_with_the_scheme() -> None:
    assert told(errors.Unauthenticated())[1][b"www-authenticate"] == b'Bearer realm="promo-api"'


def test_a_wrong_method_is_answered_with_the_right_ones() -> None:
    assert told(problems.MethodNotAllowed(allow="GET, HEAD"))[1][b"allow"] == b"GET, HEAD"
