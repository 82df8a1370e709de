"""A breaker opens on failures, tries with one call at a time, and closes; retries are a share of the calls."""

import pytest

from infra.errors import Unavailable
from infra.rpc.breaker import Breaker, RetryBudget, State
from infra.settings import Settings
from infra.telemetry import instruments

SETTINGS = Settings(breaker_window_seconds=2, breaker_calls_min=10, breaker_failure_ratio=0.5, breaker_open_seconds=3)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("echo", SETTINGS, clock)


def opened(breaker: Breaker) -> Breaker:
    for _ in range(10):
        breaker.admit()
        breaker.failed()
    assert breaker.state is State.OPEN
    return breaker


def now(breaker: Breaker) -> State:
    return breaker.state  # read anew: mypy would take it for what it was


def test_it_opens_when_half_of_the_calls_fail(breaker: Breaker) -> None:
    for number in range(10):
        assert breaker.state is State.CLOSED
        breaker.admit()
        (breaker.failed if number % 2 else breaker.succeeded)()
    assert breaker.state is State.OPEN
    with pytest.raises(Unavailable):
        breaker.admit()
    assert (breaker.failures, breaker.successes, breaker.rejected) == (5, 5, 1)


def test_a_few_failures_are_no_reason(breaker: Breaker) -> None:
    for _ in range(9):
        breaker.failed()
    assert breaker.state is State.CLOSED


def test_a_small_share_of_failures_is_no_reason(breaker: Breaker) -> None:
    for number in range(1_000):
        (breaker.failed if number % 3 == 0 else breaker.succeeded)()
    assert breaker.state is State.CLOSED


def test_what_was_long_ago_does_not_count(breaker: Breaker, clock: Clock) -> None:
    for _ in range(9):
        breaker.failed()
    clock.now += 2.1
    breaker.failed()
    assert breaker.state is State.CLOSED


def test_a_good_past_does_not_hide_an_outage(breaker: Breaker, clock: Clock) -> None:
    for _ in range(20):
        for _ in range(100):
            breaker.succeeded()
        clock.now += 0.1
    begin = clock.now
    while breaker.state is State.CLOSED:
        for _ in range(100):
            breaker.failed()
        clock.now += 0.1
    assert clock.now - begin <= 2


def test_after_a_while_one_call_tries_and_the_others_are_refused(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 3
    breaker.admit()
    assert now(breaker) is State.HALF_OPEN
    with pytest.raises(Unavailable):
        breaker.admit()
    breaker.succeeded()
    assert now(breaker) is State.CLOSED
    breaker.failed()  # the window began anew
    assert now(breaker) is State.CLOSED


def test_a_try_that_fails_opens_it_for_another_while(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 3
    breaker.admit()
    breaker.failed()
    clock.now += 2.9
    with pytest.raises(Unavailable):
        breaker.admit()
    clock.now += 0.1
    breaker.admit()


def test_a_try_whose_caller_left_lets_the_next_one_try(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 3
    breaker.admit()
    breaker.abandoned()
    breaker.admit()
    assert breaker.state is State.HALF_OPEN


def test_late_failures_of_earlier_calls_do_not_keep_it_open(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 2.9
    breaker.failed()
    clock.now += 0.1
    breaker.admit()


def test_its_state_is_a_metric(breaker: Breaker) -> None:
    opened(breaker)
    states = {state: instruments.BREAKER_STATE.labels("echo", state)._value.get() for state in State}
    assert states == {State.CLOSED: 0, State.OPEN: 1, State.HALF_OPEN: 0}


def test_retries_are_a_tenth_of_the_calls_after_the_first_ten() -> None:
    budget = RetryBudget(SETTINGS)
    retries = 0
    for _ in range(1_000):
        budget.deposit()
        retries += budget.take()
    assert 100 <= retries <= 110
