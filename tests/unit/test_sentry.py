"""Error reports: one for each bug, with the ids of its trace and without secrets."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.propagate import inject
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from infra import sentry, telemetry
from infra.settings import Settings
from tests.fixtures.tracing import Spans

DSN = "http://key@127.0.0.1:9/1"


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def events(self) -> list[dict[str, Any]]:
        events = [envelope.get_event() for envelope in self.envelopes]
        return [dict(event) for event in events if event is not None]


@pytest.fixture
def kept() -> Iterator[Kept]:
    transport = Kept()
    sentry.start(Settings(sentry_dsn=DSN, service_name="coupon-service"), version="1", transport=transport)
    yield transport
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    sentry._Started.on = False


def bug() -> ValueError:
    try:
        raise ValueError("no room for c4n4ry@mail.example")
    except ValueError as error:
        return error


def test_a_bug_is_one_report_with_the_ids_of_its_trace(kept: Kept, spans: Spans) -> None:
    with telemetry.root("process coupon.issued") as span:
        sentry.capture(bug(), topic="coupon.issued", partition=3)
    [event] = kept.events()
    assert event["contexts"]["trace"]["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert event["contexts"]["trace"]["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert event["tags"] == {"topic": "coupon.issued", "partition": "3"}
    assert event["exception"]["values"][0]["type"] == "ValueError"
    assert event["server_name"] == "coupon-service"
    assert "c4n4ry" not in str(event)


def test_the_same_bug_is_told_once(kept: Kept) -> None:
    error = bug()
    sentry.capture(error)
    sentry.capture(error)
    assert len(kept.events()) == 1


def test_log_lines_are_no_reports(kept: Kept) -> None:
    logging.getLogger("aiokafka").error("no broker")
    assert kept.events() == []


def test_the_trace_context_stays_w3c(kept: Kept, spans: Spans) -> None:
    with telemetry.root("job"):
        assert set(telemetry.inject()) == {"traceparent"}
        headers: dict[str, str] = {}
        inject(headers)
        assert set(headers) <= {"traceparent", "tracestate", "baggage"}


def test_without_a_dsn_nothing_happens() -> None:
    sentry.start(Settings())
    sentry.capture(bug())
    sentry.flush()
    assert not sentry._Started.on
