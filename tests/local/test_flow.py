"""When the trace of the first flow is whole."""

from infra.local.flow import is_whole
from infra.local.spans import Span

REQUEST = Span("1", "", "api-gateway", "POST", 0, 1)
SEND = Span("2", "1", "coupon-service", "send coupon.issued", 0, 1)
PROCESS = Span("3", "2", "point-service", "process coupon.issued", 0, 1)
COMMIT = Span("4", "3", "point-service", "COMMIT", 0, 1)


def test_a_trace_is_whole_with_the_consumers_commit() -> None:
    assert is_whole([REQUEST, SEND, PROCESS, COMMIT])


def test_it_is_not_before_the_consumer_committed() -> None:
    assert not is_whole([REQUEST, SEND, PROCESS])
    assert not is_whole([REQUEST, Span("5", "1", "coupon-service", "COMMIT", 0, 1)])
    assert not is_whole([])


def test_it_is_not_while_a_parent_is_missing() -> None:
    assert not is_whole([REQUEST, PROCESS, COMMIT])
