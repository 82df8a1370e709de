"""A typed "no" crosses a wire and comes back as the same class with the same facts."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from infra import errors
from infra.errors import Fact, Kind, Refused
from infra.rpc.status import CROSSINGS, UpstreamFailed, from_details, from_status, internal, to_status

AT = datetime(2026, 5, 1, 9, 0, 0, 120000, tzinfo=UTC)


class SoldOut(Refused):
    kind, code = Kind.STATE, "SOLD_OUT"


class NotAdmitted(Refused):
    kind, code = Kind.DENIED, "NOT_ADMITTED"


def crossed(refused: Refused) -> Refused:
    back = from_status(Status.FromString(to_status(refused).SerializeToString()))
    assert isinstance(back, Refused)
    return back


@pytest.mark.parametrize(
    ("refused", "code", "cls"),
    [
        (SoldOut(available=0, requested=1, retry_at=AT), grpc.StatusCode.FAILED_PRECONDITION, Refused),
        (errors.NotFound("Coupon policy", "7"), grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (errors.Forbidden(), grpc.StatusCode.PERMISSION_DENIED, errors.Forbidden),
        (NotAdmitted(), grpc.StatusCode.PERMISSION_DENIED, Refused),
        (errors.Unauthenticated(), grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (errors.KeyReused(), grpc.StatusCode.INVALID_ARGUMENT, errors.KeyReused),
        (errors.RateLimited(retry_at=AT), grpc.StatusCode.RESOURCE_EXHAUSTED, errors.RateLimited),
        (errors.Overloaded(), grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (errors.Unavailable(), grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (errors.DeadlineExceeded(), grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
    ],
    ids=lambda each: getattr(each, "code", None),
)
def test_a_refusal_comes_back_as_what_it_was(refused: Refused, code: grpc.StatusCode, cls: type[Refused]) -> None:
    back = crossed(refused)
    assert to_status(refused).code == code.value[0]
    assert type(back) is cls
    assert (back.kind, back.code, back.facts) == (refused.kind, refused.code, refused.facts)


def test_facts_keep_their_types() -> None:
    facts: dict[str, Fact] = {
        "available": 2,
        "requested": 2**53,
        "missing": -1,
        "retry_at": AT,
        "coupon_id": "31",
        "status": "USED",
        "id": "u-1",
    }
    assert crossed(Refused.of(Kind.STATE, "INSUFFICIENT_STOCK", facts)).facts == facts


def test_ids_cross_as_text() -> None:
    assert crossed(SoldOut(coupon_id=31)).facts == {"coupon_id": "31"}


def test_validation_brings_its_fields() -> None:
    fields = {"orderAmount": "must be at least 1", "userId": "must match"}
    back = crossed(errors.ValidationFailed(fields))
    assert isinstance(back, errors.ValidationFailed)
    assert back.fields == fields


def test_when_to_retry_also_crosses_the_standard_way() -> None:
    info = RetryInfo()
    status = to_status(SoldOut(retry_at=datetime.now(UTC) + timedelta(seconds=60)))
    assert any(detail.Unpack(info) for detail in status.details)
    assert 55 < info.retry_delay.ToTimedelta().total_seconds() <= 60


def test_every_kind_has_a_crossing() -> None:
    assert set(CROSSINGS) == set(Kind)


def test_only_what_is_not_there_or_late_opens_a_breaker_and_only_what_is_not_there_is_retried() -> None:
    assert {kind for kind, crossing in CROSSINGS.items() if crossing.opens_breaker} == {Kind.UNAVAILABLE, Kind.DEADLINE}
    assert {kind for kind, crossing in CROSSINGS.items() if crossing.retried} == {Kind.UNAVAILABLE}
    assert {kind for kind, crossing in CROSSINGS.items() if crossing.server_fault} == {Kind.UNAVAILABLE, Kind.DEADLINE}


def test_a_bug_crosses_without_a_word() -> None:
    assert internal() == Status(code=13)
    assert isinstance(from_status(internal()), UpstreamFailed)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.CANCELLED, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (grpc.StatusCode.INTERNAL, UpstreamFailed),
        (grpc.StatusCode.UNKNOWN, UpstreamFailed),
        (grpc.StatusCode.UNIMPLEMENTED, UpstreamFailed),
        (grpc.StatusCode.NOT_FOUND, UpstreamFailed),
    ],
)
def test_a_bare_code_is_read_by_what_the_transport_means(code: grpc.StatusCode, cls: type[Exception]) -> None:
    assert type(from_details(code, None)) is cls


def test_details_that_are_none_of_ours_are_passed_over() -> None:
    assert type(from_details(grpc.StatusCode.UNAVAILABLE, b"\xff\xff")) is errors.Unavailable
    foreign = Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0])
    foreign.details.add().Pack(ErrorInfo(reason="SOLD_OUT", domain="elsewhere"))
    foreign.details.append(Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"))
    assert type(from_status(foreign)) is UpstreamFailed
    assert type(from_status(Status(code=99))) is UpstreamFailed
