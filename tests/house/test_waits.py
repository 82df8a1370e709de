"""A test waits for what it wants to see, never for a while and a hope."""

import ast

import pytest

from tests.house.sources import python, tree

SLEEP_SECONDS_MAX = 0.1
# Where the time itself is the matter of the test.
TIME_IS_THE_MATTER = {
    "tests/e2e/test_kills.py": "how long a killed process stays away",
    "tests/fixtures/little_service.py": "the program under test: it takes its time on purpose",
    "tests/integration/test_broker_outage.py": "an outage longer than the time of a send",
    "tests/integration/test_consumer.py": "a handler that is slower than its time-out; a poll without a record",
    "tests/integration/test_coupon_races.py": "the lock is let go after the policy's end",
    "tests/integration/test_coupon_use.py": "the same for a coupon",
    "tests/integration/test_discovery.py": "the life of a lease",
    "tests/integration/test_gateway.py": "a worker that is slower than the deadline",
    "tests/integration/test_http_edge.py": "a client that trickles",
    "tests/integration/test_rpc_server_life.py": "a port that is still taken for a while",
    "tests/integration/test_gateway_limits.py": "the life of a bucket",
    "tests/unit/test_gateway_auth.py": "the life of a token",
}
SLEEPS = {"asyncio.sleep", "time.sleep", "sleep"}


def long_sleeps(path: str) -> list[str]:
    """Sleeps of more than a moment, or by a sum that only the run knows."""
    found = []
    for node in ast.walk(tree(path)):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS and node.args):
            continue
        number = node.args[0]
        if isinstance(number, ast.Constant) and isinstance(number.value, int | float):
            if number.value > SLEEP_SECONDS_MAX:
                found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
        elif not isinstance(number, ast.Name):
            found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    return found


def test_no_test_sleeps_where_it_can_wait_for_a_condition() -> None:
    assert [one for path in python("tests") if path not in TIME_IS_THE_MATTER for one in long_sleeps(path)] == []


@pytest.mark.parametrize("path", TIME_IS_THE_MATTER)
def test_who_may_sleep_still_does(path: str) -> None:
    assert long_sleeps(path) != []
