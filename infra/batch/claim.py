"""One request's demand in a batch: its caller's future, its deadline and, where it is sampled, its spans."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Generic, TypeAlias, TypeVar

from infra import telemetry
from infra.errors import Kind, Refused
from infra.telemetry import SpanKind, names

Demand = TypeVar("Demand")
Result = TypeVar("Result")

DELAYED = (Kind.DEADLINE, Kind.UNAVAILABLE)


class Claim(Generic[Demand, Result]):
    """`deadline` is an instant of the loop's clock, `entered` one of `perf_counter`, which uvloop does not round.

    `attempt` counts the runs it was in, from 1.
    """

    __slots__ = ("attempt", "deadline", "demand", "entered", "future", "key", "parent", "span")

    def __init__(self, key: int, demand: Demand, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        self.key, self.demand, self.deadline = key, demand, deadline
        self.future: asyncio.Future[Result] = loop.create_future()
        self.entered = perf_counter()
        self.attempt = 0
        self.parent: telemetry.Context | None = None
        self.span: telemetry.Span | None = None

    def trace(self, name: str) -> None:
        """Give it a `batch` span if its request is sampled."""
        current = telemetry.current_span()
        if current.is_recording():
            self.parent = telemetry.context_of(current)
            self.open_span(name)

    def open_span(self, name: str) -> None:
        """The span of its wait and its next run, under the request's own."""
        if self.parent is not None:
            self.span = telemetry.start_span(
                name, SpanKind.INTERNAL, context=self.parent, attributes={names.OPERATION: name}
            )
            if self.attempt:
                self.span.set_attribute(names.BATCH_TRY, self.attempt + 1)

    def settle(self, result: Result | Exception) -> None:
        """Tell its caller, if there still is one, and close its span."""
        if isinstance(result, StopIteration):  # the one exception a future does not take; the lane would die of it
            result = RuntimeError(repr(result))
        failed = isinstance(result, Exception)
        if self.span is not None:
            if isinstance(result, Exception):
                telemetry.tell(self.span, result)
            self.span.set_attribute(names.OUTCOME, _outcome(result))
            self.span.end()
            self.span = None
        if self.future.done():
            return
        if failed:
            self.future.set_exception(result)  # type: ignore[arg-type]  # `failed` says it is an exception
        else:
            self.future.set_result(result)  # type: ignore[arg-type]  # and here that it is none

    def left(self) -> None:
        """Its caller is gone before its turn came."""
        if self.span is not None:
            self.span.set_attribute(names.OUTCOME, "cancelled")
            self.span.end()
            self.span = None

    def go_again(self, name: str) -> None:
        """It waits for another run: the span of the failed one ends, the next begins."""
        self.entered = perf_counter()
        if self.span is not None:
            self.span.end()
            self.open_span(name)


Group: TypeAlias = list[Claim[Demand, Result]]
Groups: TypeAlias = list[list[Claim[Demand, Result]]]


def leader_of(claims: Sequence[Claim[Demand, Result]]) -> Claim[Demand, Result] | None:
    """The first sampled one: the statements of the run hang under its span."""
    return next((claim for claim in claims if claim.span is not None), None)


def describe_run(
    claims: Sequence[Claim[Demand, Result]], leader: Claim[Demand, Result], started: float, seconds: float
) -> None:
    """Write on each sampled claim's span what it waited and shared, and link it to the leader's."""
    assert leader.span is not None
    leading = telemetry.link(leader.span.get_span_context(), "batch")
    for claim in claims:
        span = claim.span
        if span is None:
            continue
        if claim is not leader:
            span.add_link(leading.context, leading.attributes)
        span.set_attributes(
            {
                names.BATCH_SIZE: len(claims),
                names.BATCH_ROLE: "leader" if claim is leader else "member",
                names.BATCH_WAIT_MS: (started - claim.entered) * 1000,
                names.BATCH_COMMIT_MS: seconds * 1000,
            }
        )


def _outcome(result: object) -> str:
    if isinstance(result, Refused):
        return "error" if result.kind in DELAYED else "refused"
    return "error" if isinstance(result, Exception) else "ok"
