"""Keeps a failing upstream from being asked, and retries from making a bad time worse."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from infra import logs, telemetry
from infra.errors import Unavailable
from infra.settings import Settings
from infra.telemetry import instruments

SLICES = 10  # of the window; the oldest is forgotten as a whole

log = logs.get_logger(__name__)


class State(StrEnum):
    """CLOSED lets all calls through, OPEN none, HALF_OPEN waits for the one that tries."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


@dataclass(slots=True)
class _Slice:
    number: int
    calls: int = 0
    failures: int = 0


class Breaker:
    """Opens when the share of failures within the window is too high; then one call at a time tries again."""

    def __init__(self, name: str, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.state = State.CLOSED
        self.failures = self.successes = self.rejected = 0  # since the process began
        self._clock = clock
        self._calls_min = settings.breaker_calls_min
        self._ratio = settings.breaker_failure_ratio
        self._open_seconds = settings.breaker_open_seconds
        self._slice_seconds = settings.breaker_window_seconds / SLICES
        self._window: deque[_Slice] = deque()
        self._try_at = 0.0
        self._rejections = instruments.BREAKER_REJECTED.labels(name)
        self._show()

    def admit(self) -> None:
        """Ask before a call; tell its end by `succeeded`, `failed` or `abandoned`. :raises Unavailable: it is open."""
        if self.state is State.CLOSED:
            return
        if self.state is State.OPEN and self._clock() >= self._try_at:
            self._turn(State.HALF_OPEN)
            return
        self.rejected += 1
        self._rejections.inc()
        telemetry.add_span_event("breaker.open", {"promo.upstream": self.name})
        raise Unavailable

    def succeeded(self) -> None:
        """The upstream answered; a refusal is an answer."""
        self.successes += 1
        if self.state is State.CLOSED:
            self._count(failed=False)
        elif self.state is State.HALF_OPEN:
            self._window.clear()
            self._turn(State.CLOSED)

    def failed(self) -> None:
        """The upstream is not there, or did not answer in time."""
        self.failures += 1
        if self.state is State.OPEN:
            return  # a call from before: it must not keep the breaker open
        if self.state is State.CLOSED:
            self._count(failed=True)
            calls = sum(each.calls for each in self._window)
            failures = sum(each.failures for each in self._window)
            if calls < self._calls_min or failures < calls * self._ratio:
                return
        self._try_at = self._clock() + self._open_seconds
        self._turn(State.OPEN)

    def abandoned(self) -> None:
        """The call ended without telling anything of the upstream, as by its caller's leaving."""
        if self.state is State.HALF_OPEN:
            self._turn(State.OPEN)  # its time has come already: the next call tries

    def _count(self, *, failed: bool) -> None:
        number = int(self._clock() / self._slice_seconds)
        if not self._window or self._window[-1].number != number:
            self._window.append(_Slice(number))
            while self._window[0].number <= number - SLICES:
                self._window.popleft()
        self._window[-1].calls += 1
        self._window[-1].failures += failed

    def _turn(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        instruments.BREAKER_TRANSITIONS.labels(self.name, state).inc()
        log.warning("breaker.turned", upstream=self.name, to=state)
        self._show()

    def _show(self) -> None:
        for state in State:
            instruments.BREAKER_STATE.labels(self.name, state).set(state is self.state)


class RetryBudget:
    """Retries are a share of the calls: a bucket that each call fills a little and each retry empties by one."""

    def __init__(self, settings: Settings) -> None:
        self._max = self._tokens = float(settings.rpc_retry_budget_max)
        self._ratio = settings.rpc_retry_ratio

    def deposit(self) -> None:
        """A call was made."""
        self._tokens = min(self._max, self._tokens + self._ratio)

    def take(self) -> bool:
        """May one call be repeated?"""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
