"""Requests for one hot row share a call: a lone one travels as it is, those that wait meanwhile travel together.

Each item keeps its own caller, command id, deadline, request id, trace and outcome. Batch messages follow one form:
`items[]` of {request, request_id, traceparent, tracestate, deadline_ms}, `results[]` of {one of a message or `status`,
replayed}.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from infra import logs, telemetry
from infra.errors import DeadlineExceeded, Kind, Overloaded, Refused, Unavailable
from infra.rpc import outgoing
from infra.rpc.client import Reply, Upstream, told
from infra.rpc.status import CROSSINGS, UpstreamFailed, from_status, to_status
from infra.settings import Settings
from infra.telemetry import instruments, names
from infra.telemetry.metrics import observe

Outcome: TypeAlias = Reply[Any] | Refused | UpstreamFailed

# What is said of the call itself holds for each of its items; anything else may be the fault of one of them.
OF_ALL = frozenset({Kind.UNAVAILABLE, Kind.OVERLOADED, Kind.DEADLINE})


@dataclass(slots=True, eq=False)
class _Item:
    """A request that waits for its call."""

    request: Message
    deadline: float
    since: float
    span: telemetry.Span
    outcome: "asyncio.Future[Reply[Any]]"
    context: contextvars.Context  # of its caller: parent span and request id

    def end(self, outcome: Reply[Any] | Exception) -> None:
        """Tell the caller, if there still is one."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


@dataclass(slots=True)
class _Lane:
    """The requests of one row. `flights`: calls under way."""

    key: int
    flights: int = 0
    waiting: deque[_Item] = field(default_factory=deque)


class Coalescer:
    """One hot verb of an upstream, in its `unary` and its `batch` form (bare method names)."""

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        *,
        unary: str,
        batch: str,
        batch_request: Callable[[], Any],
        settings: Settings,
        enabled: bool = True,
    ) -> None:
        self._upstream, self._unary, self._batch, self._batch_request = upstream, unary, batch, batch_request
        self._enabled = enabled
        self._items_max = settings.rpc_coalesce_items_max
        self._flights_max = settings.rpc_coalesce_flights_max
        self._queue_max = settings.rpc_coalesce_queue_max
        self._lanes: dict[int, _Lane] = {}
        self._waiting = 0
        self._group: asyncio.TaskGroup | None = None
        self._sizes, self._waits = instruments.BATCH_SIZE.labels(name), instruments.BATCH_WAIT_SECONDS.labels(name)
        self._rejected = instruments.BATCH_REJECTED.labels(name)
        instruments.BATCH_QUEUE_DEPTH.labels(name).set_function(lambda: self._waiting)

    async def run(self) -> None:
        """The shared calls live in here, so that a caller who leaves takes none along; a background task."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None
                for lane in list(self._lanes.values()):
                    self._next(lane)

    async def call(self, request: Message, *, key: int, deadline: float) -> Reply[Any]:
        """Ask for one item of row `key`; errors as of `Upstream.call`, Overloaded also by a full queue."""
        if not self._enabled or self._group is None:
            return await self._upstream.call(self._unary, request, deadline=deadline, key=key)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        if lane.flights < self._flights_max:
            return await self._at_once(lane, request, deadline)
        if self._waiting >= self._queue_max:
            self._rejected.inc()
            raise Overloaded
        return await self._wait(lane, request, deadline)

    async def _at_once(self, lane: _Lane, request: Message, deadline: float) -> Reply[Any]:
        span = self._upstream.outgoing(self._unary).open()
        self._depart(1, span, 0.0)
        lane.flights += 1
        try:
            return await self._upstream.call(self._unary, request, deadline=deadline, key=lane.key, span=span)
        finally:
            self._land(lane)

    async def _wait(self, lane: _Lane, request: Message, deadline: float) -> Reply[Any]:
        loop, span = asyncio.get_running_loop(), self._upstream.outgoing(self._unary).open()
        item = _Item(request, deadline, perf_counter(), span, loop.create_future(), contextvars.copy_context())
        lane.waiting.append(item)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await item.outcome
        except TimeoutError:
            raise DeadlineExceeded from None

    def _land(self, lane: _Lane) -> None:
        lane.flights -= 1
        self._next(lane)

    def _next(self, lane: _Lane) -> None:
        """Let those travel who wait, as far as there are flights."""
        while lane.waiting and (self._group is None or lane.flights < self._flights_max):
            items = self._board(lane)
            if self._group is None:
                for item in items:
                    self._told(item, Unavailable())
            elif items:
                lane.flights += 1
                context = items[0].context if len(items) == 1 else contextvars.Context()
                self._group.create_task(self._fly(lane, items), context=context)
        if not lane.flights and not lane.waiting:
            self._lanes.pop(lane.key, None)

    def _board(self, lane: _Lane) -> list[_Item]:
        """The next ones in line, without those whose caller has left or whose time is up."""
        now = asyncio.get_running_loop().time()
        items: list[_Item] = []
        while lane.waiting and len(items) < self._items_max:
            item = lane.waiting.popleft()
            self._waiting -= 1
            if item.outcome.done() or now >= item.deadline:
                self._told(item, DeadlineExceeded() if now >= item.deadline else None)
            else:
                items.append(item)
        return items

    async def _fly(self, lane: _Lane, items: list[_Item]) -> None:
        now = perf_counter()
        for item in items:
            self._depart(len(items), item.span, now - item.since)
        self._sizes.observe(len(items))
        try:
            if len(items) == 1:
                await self._one(lane, items[0], items[0].span, 1)
            else:
                await self._many(lane, items)
        finally:
            for item in items:  # only a process that ends leaves some without an outcome
                item.end(Unavailable())
            self._land(lane)

    async def _one(self, lane: _Lane, item: _Item, span: telemetry.Span | None, attempt: int) -> None:
        try:
            item.end(
                await self._upstream.call(
                    self._unary, item.request, deadline=item.deadline, key=lane.key, span=span, attempt=attempt
                )
            )
        except (Refused, UpstreamFailed) as error:
            item.end(error)

    async def _many(self, lane: _Lane, items: list[_Item]) -> None:
        leader = next((item for item in items if item.span.is_recording()), items[0])
        outcomes: list[Outcome]
        with telemetry.attached(telemetry.context_of(leader.span)):
            span = self._upstream.outgoing(self._batch).open()
            for item in items:
                if item is not leader and item.span.is_recording():
                    item.span.add_link(span.get_span_context(), {names.LINK: "rpc"})
            try:
                outcomes = await self._carry(lane, items, span)
                alone = [isinstance(each, Refused) and CROSSINGS[each.kind].retried for each in outcomes]
            except (Refused, UpstreamFailed) as error:
                outcomes = [_again(error) for _ in items]
                alone = [not (isinstance(error, Refused) and error.kind in OF_ALL)] * len(items)
        async with asyncio.TaskGroup() as group:
            for item, outcome, unknown in zip(items, outcomes, alone, strict=True):
                if unknown and self._upstream.budget.take():
                    self._count(item, outcome)
                    group.create_task(self._one(lane, item, None, 2), context=item.context)
                else:
                    self._told(item, outcome)

    async def _carry(self, lane: _Lane, items: list[_Item], span: telemetry.Span) -> list[Outcome]:
        request, now = self._batch_request(), asyncio.get_running_loop().time()
        for item in items:
            entry = request.items.add(
                request_id=item.context.get(logs.request_id) or "",
                deadline_ms=max(0, int((item.deadline - now) * 1000)),
                **telemetry.inject(item.span),
            )
            entry.request.CopyFrom(item.request)
        deadline = max(item.deadline for item in items)
        reply = await self._upstream.call(self._batch, request, deadline=deadline, key=lane.key, span=span)
        results = reply.message.results
        if len(results) != len(items):
            raise UpstreamFailed(grpc.StatusCode.DATA_LOSS)
        return [_outcome(result, reply.address) for result in results]

    def _depart(self, size: int, span: telemetry.Span, waited: float) -> None:
        observe(self._waits, waited, span)
        if span.is_recording():
            span.set_attributes({names.RPC_BATCH_SIZE: size, names.RPC_WAIT_MS: round(waited * 1000, 3)})

    def _told(self, item: _Item, outcome: Outcome | None) -> None:
        """This is the item's outcome; None: its caller left while it waited."""
        self._count(item, outcome)
        if outcome is not None:
            item.end(outcome)

    def _count(self, item: _Item, outcome: Outcome | None) -> None:
        telling = self._upstream.outgoing(self._unary)
        seconds = perf_counter() - item.since
        if isinstance(outcome, Reply):
            telling.close(item.span, seconds, outcome.address)
        elif outcome is None:
            telling.close(item.span, seconds, "", code=outgoing.CANCELLED)
        else:
            telling.close(item.span, seconds, "", code=outgoing.code_of(outcome), error=outcome)


def _outcome(result: Any, address: str) -> Outcome:
    which = result.WhichOneof("outcome")
    if which == "status":
        return told(from_status(result.status))
    if which is None:
        return UpstreamFailed(grpc.StatusCode.DATA_LOSS)
    return Reply(getattr(result, which), result.replayed, address)


def _again(error: Refused | UpstreamFailed) -> Refused | UpstreamFailed:
    """The same error as an object of its own: each caller raises it."""
    return UpstreamFailed(error.code) if isinstance(error, UpstreamFailed) else from_status(to_status(error))
