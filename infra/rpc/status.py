"""How a typed "no" crosses a wire: the one table kind -> gRPC status, and the `google.rpc.Status` that carries facts.

`ErrorInfo.reason` is the refusal's code, its metadata the facts as text. A name says how a fact is read back: `*_at` is
a time (RFC 3339), `id` and `*_id` stay text, as on every wire of ours; of the others decimal digits are a number.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from infra import errors
from infra.errors import Fact, Kind, Refused

REPLAYED = "replayed"  # beside the facts: this refusal was stored by an earlier call
DOMAIN = "promo"
DETAILS_KEY = "grpc-status-details-bin"
INTEGER = re.compile(r"-?\d{1,19}")


@dataclass(frozen=True, slots=True)
class Crossing:
    """What a kind means on the wire and to those who watch it."""

    code: grpc.StatusCode
    opens_breaker: bool = False
    retried: bool = False
    server_fault: bool = False  # a red server span, a fault of the service-level objective
    client_fault: bool = False  # a red client span


CROSSINGS: dict[Kind, Crossing] = {
    Kind.STATE: Crossing(grpc.StatusCode.FAILED_PRECONDITION),
    Kind.NOT_FOUND: Crossing(grpc.StatusCode.NOT_FOUND),
    Kind.INVALID: Crossing(grpc.StatusCode.INVALID_ARGUMENT),
    Kind.DENIED: Crossing(grpc.StatusCode.PERMISSION_DENIED),
    Kind.UNAUTHENTICATED: Crossing(grpc.StatusCode.UNAUTHENTICATED, client_fault=True),
    Kind.LIMITED: Crossing(grpc.StatusCode.RESOURCE_EXHAUSTED),
    Kind.OVERLOADED: Crossing(grpc.StatusCode.RESOURCE_EXHAUSTED, client_fault=True),
    Kind.UNAVAILABLE: Crossing(
        grpc.StatusCode.UNAVAILABLE, opens_breaker=True, retried=True, server_fault=True, client_fault=True
    ),
    Kind.DEADLINE: Crossing(
        grpc.StatusCode.DEADLINE_EXCEEDED, opens_breaker=True, server_fault=True, client_fault=True
    ),
}
KINDS: dict[int, Kind] = {
    crossing.code.value[0]: kind for kind, crossing in CROSSINGS.items() if kind is not Kind.LIMITED
}
CODES = {code.value[0]: code for code in grpc.StatusCode}
CLASSES: dict[tuple[Kind, str], type[Refused]] = {
    (known.kind, known.code): known
    for known in (
        errors.NotFound,
        errors.ValidationFailed,
        errors.Forbidden,
        errors.Unauthenticated,
        errors.KeyReused,
        errors.RateLimited,
        errors.Overloaded,
        errors.Unavailable,
        errors.DeadlineExceeded,
    )
}
# An answer without a reason of ours: the transport's own, or that of a proxy between.
BARE: dict[grpc.StatusCode, type[Refused]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,  # only those that nobody asked for come here
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
}


class UpstreamFailed(Exception):
    """The other side broke, or does not believe us: a fault to look for there, no refusal. `code` is its status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


def to_status(refused: Refused) -> Status:
    """The refusal as it crosses a wire and is stored. It holds no sentence: the gateway makes that from the facts."""
    status = Status(code=CROSSINGS[refused.kind].code.value[0], message=refused.code)
    facts = {name: _written(fact) for name, fact in refused.facts.items()}
    if refused.replayed:
        facts[REPLAYED] = "true"
    status.details.add().Pack(ErrorInfo(reason=refused.code, domain=DOMAIN, metadata=facts))
    retry_at = refused.facts.get("retry_at")
    if isinstance(retry_at, datetime):
        status.details.add().Pack(_retry_info(retry_at))
    if isinstance(refused, errors.ValidationFailed):
        violations = [
            BadRequest.FieldViolation(field=field, description=text) for field, text in refused.fields.items()
        ]
        status.details.add().Pack(BadRequest(field_violations=violations))
    return status


def internal() -> Status:
    """What is told of a bug: nothing."""
    return Status(code=Code.INTERNAL)


def from_status(status: Status) -> Refused | UpstreamFailed:
    """The refusal in a status, as the class `infra.errors` has for it; a status that is none is a failed upstream."""
    info, fields = ErrorInfo(), BadRequest()
    for detail in status.details:
        try:
            _ = detail.Unpack(info) or detail.Unpack(fields)
        except DecodeError:
            continue
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    kind: Kind | None = KINDS.get(status.code)
    if info.domain != DOMAIN or not info.reason or kind is None:
        return BARE[code]() if code in BARE else UpstreamFailed(code)
    if kind is Kind.OVERLOADED and info.reason == errors.RateLimited.code:
        kind = Kind.LIMITED
    facts = {name: _read(name, text) for name, text in info.metadata.items() if name != REPLAYED}
    refused = _refusal(kind, info.reason, facts, {each.field: each.description for each in fields.field_violations})
    refused.replayed = info.metadata.get(REPLAYED) == "true"
    return refused


def from_details(code: grpc.StatusCode, details: bytes | None) -> Refused | UpstreamFailed:
    """The refusal in a failed call's code and its `grpc-status-details-bin`."""
    if details is not None:
        try:
            return from_status(Status.FromString(details))
        except DecodeError:
            pass
    return from_status(Status(code=code.value[0]))


def _refusal(kind: Kind, code: str, facts: dict[str, Fact], fields: dict[str, str]) -> Refused:
    known = CLASSES.get((kind, code), Refused)
    refused = known.__new__(known)  # the classes want their facts by name; what came is what there is
    Refused.__init__(refused, **facts)
    refused.kind, refused.code, refused.args = kind, code, (code,)
    if isinstance(refused, errors.ValidationFailed):
        refused.fields = fields
    return refused


def _retry_info(retry_at: datetime) -> RetryInfo:
    info = RetryInfo()
    wait = retry_at - datetime.now(UTC)  # noqa: TID251 - foreign clients want a span of time; ours read the instant
    info.retry_delay.FromTimedelta(wait)
    return info


def _written(fact: Fact) -> str:
    return fact.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(fact, datetime) else str(fact)


def _read(name: str, text: str) -> Fact:
    if name.endswith("_at"):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            return text
    if name == "id" or name.endswith("_id") or not INTEGER.fullmatch(text):
        return text
    return int(text)
