"""A gateway's way to one upstream: which instance, how many at once, how long, and once more when nobody was there."""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from infra import telemetry
from infra.discovery import Instances
from infra.errors import DeadlineExceeded, Overloaded, Refused, Unauthenticated, Unavailable
from infra.rpc import outgoing
from infra.rpc.balance import Balancer, Instance, Stub
from infra.rpc.breaker import Breaker, RetryBudget, State
from infra.rpc.outgoing import Outgoing
from infra.rpc.status import CROSSINGS, DETAILS_KEY, UpstreamFailed, from_details
from infra.rpc.tokens import ServiceToken
from infra.settings import Settings
from infra.telemetry import instruments, names

MessageT = TypeVar("MessageT", bound=Message)

RETRY_SECONDS_MAX = 0.03  # a random pause before the same instance is asked again


@dataclass(frozen=True, slots=True)
class Reply(Generic[MessageT]):
    """An answer; `replayed`: it is that of an earlier call with the same command id."""

    message: MessageT
    replayed: bool
    address: str  # of the instance that gave it


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """How an upstream does; the counts are those of this process since it began."""

    name: str
    state: State
    failures: int
    successes: int
    rejected: int


class Upstream:
    """All calls to one service. `name` is for metrics and people, `stub_class` the generated stub."""

    def __init__(self, name: str, settings: Settings, instances: Instances, stub_class: Stub) -> None:
        self.name = name
        self.budget = RetryBudget(settings)
        self._balancer = Balancer(instances, stub_class, settings)
        self._breaker = Breaker(name, settings)
        self._token = ServiceToken(settings, telemetry.INSTANCE_ID)
        self._least = settings.rpc_deadline_min_ms / 1000  # seconds
        self._slots = _Slots(name, settings)
        self._methods = _Methods(self._balancer, own_spans=settings.instrumentation == "own")

    async def call(
        self,
        method: str,
        request: Message,
        *,
        deadline: float,
        key: int | None = None,
        span: telemetry.Span | None = None,
        attempt: int = 1,
    ) -> Reply[Any]:
        """Call a method by its bare name; `deadline` is an instant of the loop's clock.

        Calls with the same `key` go to the same instance. `span`, if given, is the call's own and ends with its first
        try. The first attempt is followed by a second one when nobody was there and the budget allows it.

        :raises Refused: the upstream's typed "no"; Unavailable, Overloaded, DeadlineExceeded may be of our own making.
        :raises UpstreamFailed: a bug there, or it does not believe our token.
        """
        self._breaker.admit()
        heard = self._breaker.abandoned
        try:
            await self._slots.enter(deadline)
            try:
                reply = await self._twice(_Ask(method, request, deadline, key), span, attempt)
                heard = self._breaker.succeeded
                return reply
            except Refused as refused:
                heard = self._breaker.failed if CROSSINGS[refused.kind].opens_breaker else self._breaker.succeeded
                raise
            except UpstreamFailed:
                heard = self._breaker.succeeded  # it is there, with a bug
                raise
            finally:
                self._slots.leave()
        finally:
            heard()

    def state(self) -> UpstreamState:
        """For people: is it asked, and how has it answered."""
        breaker = self._breaker
        return UpstreamState(self.name, breaker.state, breaker.failures, breaker.successes, breaker.rejected)

    def outgoing(self, method: str) -> Outgoing:
        """What tells of this method's calls."""
        return self._methods[method]

    async def check(self, timeout_seconds: float) -> bool:
        """Does any instance say SERVING within this time? Asks past the breaker."""
        answers = await asyncio.gather(*(each.serves(timeout_seconds) for each in self._balancer.all()))
        return any(answers)

    async def close(self) -> None:
        """Close the channels; calls in flight end as cancelled."""
        await self._balancer.close()

    async def _twice(self, ask: "_Ask", span: telemetry.Span | None, attempt: int) -> Reply[Any]:
        self.budget.deposit()
        await self._balancer.sweep()
        first = self._balancer.pick(ask.key)
        try:
            return await self._once(first, ask, span, attempt)
        except Refused as refused:
            if attempt > 1 or not CROSSINGS[refused.kind].retried:
                raise
            second = self._balancer.pick(ask.key, besides=first)
            # What fell with its instance is carried to a good one: at most what was in flight there, so no storm.
            if not (first.away_until and second.is_there()) and not self.budget.take():
                raise
            if second is first:
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311 - spreads calls, guards nothing
            if ask.left() < self._least:
                raise
        return await self._once(second, ask, None, attempt + 1)

    async def _once(self, instance: Instance, ask: "_Ask", span: telemetry.Span | None, attempt: int) -> Reply[Any]:
        telling = self._methods[ask.method]
        span = span or telling.open()
        if span.is_recording():
            span.set_attributes({names.DEADLINE_MS: round(ask.left() * 1000), names.ATTEMPT: attempt})
            if command_id := getattr(ask.request, "command_id", ""):
                span.set_attribute(names.COMMAND_ID, command_id)
        code, error = outgoing.CANCELLED, None  # unless something else comes of it
        now = asyncio.get_running_loop().time
        started = now()
        instance.inflight += 1
        try:
            reply = await self._send(instance, ask, span)
            code = outgoing.OK
            return reply
        except grpc.aio.AioRpcError as failure:
            code, error = failure.code().name, self._heard(instance, failure)
            raise error from None
        finally:
            instance.inflight -= 1
            telling.close(span, now() - started, instance.address, code=code, error=error)

    async def _send(self, instance: Instance, ask: "_Ask", span: telemetry.Span) -> Reply[Any]:
        metadata = self._methods[ask.method].metadata(self._token.current(), span)
        call = instance.method(ask.method)(ask.request, timeout=ask.left(), metadata=metadata)
        message = await call
        self._balancer.answered(instance)
        trailing = await call.trailing_metadata()
        return Reply(message, bool(trailing) and trailing.get("idempotency-replayed") == "true", instance.address)

    def _heard(self, instance: Instance, failure: grpc.aio.AioRpcError) -> Refused | UpstreamFailed:
        """The error as its caller is told. What came without details nobody there has written."""
        details = failure.trailing_metadata().get(DETAILS_KEY)
        error = from_details(failure.code(), details if isinstance(details, bytes) else None)
        if details is None and isinstance(error, Unavailable | DeadlineExceeded):
            self._balancer.failed(instance)
        else:
            self._balancer.answered(instance)
        return told(error)


def told(error: Refused | UpstreamFailed) -> Refused | UpstreamFailed:
    """What a caller is told of an upstream's error: one that does not believe us is broken, the caller is fine."""
    return UpstreamFailed(grpc.StatusCode.UNAUTHENTICATED) if isinstance(error, Unauthenticated) else error


@dataclass(frozen=True, slots=True)
class _Ask:
    """One demand, however often it is sent."""

    method: str
    request: Message
    deadline: float
    key: int | None

    def left(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()


class _Methods(defaultdict[str, Outgoing]):
    """What tells of each method's calls, by its bare name."""

    def __init__(self, balancer: Balancer, *, own_spans: bool) -> None:
        super().__init__()
        self._balancer, self._own_spans = balancer, own_spans

    def __missing__(self, method: str) -> Outgoing:
        self[method] = telling = Outgoing(self._balancer.path(method), own_spans=self._own_spans)
        return telling


class _Slots:
    """Bounds the calls in flight, and who waits to be one of them and how long."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._free = asyncio.Semaphore(settings.rpc_client_inflight_max)
        self._wait_seconds = settings.rpc_client_wait_seconds
        self._least = settings.rpc_deadline_min_ms / 1000
        self._waiting_max = settings.rpc_client_queue_max
        self._waiting = self._inflight = 0
        instruments.UPSTREAM_INFLIGHT.labels(name).set_function(lambda: self._inflight)
        instruments.UPSTREAM_INFLIGHT_MAX.labels(name).set(settings.rpc_client_inflight_max)

    async def enter(self, deadline: float) -> None:
        """Take a place. :raises Overloaded: none came free. :raises DeadlineExceeded: too little time is left."""
        if self._free.locked():
            await self._wait(deadline)
        else:
            await self._free.acquire()  # at once
        if deadline - asyncio.get_running_loop().time() < self._least:
            self._free.release()
            raise DeadlineExceeded
        self._inflight += 1

    def leave(self) -> None:
        """Give the place back."""
        self._inflight -= 1
        self._free.release()

    async def _wait(self, deadline: float) -> None:
        if self._waiting >= self._waiting_max:
            raise Overloaded
        self._waiting += 1
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + self._wait_seconds)):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded from None
        finally:
            self._waiting -= 1
