"""The platform as a person starts it: one run of everything, looked at by every command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infra.local.state import FOLDER_NAME, ROOT, State, started

pytestmark = pytest.mark.timeout(240)
SECONDS_MAX = 120


class Promo:
    """The commands on a state folder of their own, as a person would type them."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        self._env = {**os.environ, FOLDER_NAME: str(folder)}

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start one that does not end by itself."""
        command = [sys.executable, "-m", "infra.local", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.local", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self._env, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )

    def output(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.output(*arguments, "--json"))

    def balance(self, user: str) -> int:
        url = f"{self.json('status')['urls']['api']}/points/users/{user}/balance"
        token = self.output("token", "--user", user).strip()
        answer = httpx2.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        return int(answer.raise_for_status().json()["balance"])


@pytest.fixture(scope="module")
def promo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promo]:
    """The commands; what they started is ended and forgotten."""
    made = Promo(tmp_path_factory.mktemp("promo") / "state")
    yield made
    made.output("reset")


@pytest.fixture(scope="module")
def said(promo: Promo) -> str:
    """What `up` printed; the platform runs, with two coupon workers."""
    return promo.output("up", "--detach", "--instances", "coupon=2")


def trace_of(said: str) -> str:
    found = re.search(r"^trace ([0-9a-f]{32})  ", said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def test_up_prints_one_real_trace_through_all_the_services_it_touches(said: str) -> None:
    waterfall = [line for line in said.splitlines() if line.startswith("│")]

    assert "50 points earned through the event" in said
    for service in ("api-gateway", "coupon-service", "point-service"):
        assert any(f"  {service} " in line for line in waterfall)
    names = [line.split("  ", 3)[-1].strip() for line in waterfall]
    assert names[0].endswith("POST /api/v1/coupons/issue")
    consumer = next(number for number, name in enumerate(names) if name.endswith("process coupon.issued"))
    assert any("COMMIT" in name for name in names[consumer:])
    assert "┄" not in said  # no parent is missing


def test_status_tells_of_every_process(promo: Promo, said: str) -> None:
    told = promo.json("status")

    assert told["ready"] is True
    assert {part["name"] for part in told["processes"]} == {
        *("sink", "postgres", "valkey", "kafka"),
        *("gateway", "coupon", "coupon-2", "point", "timesale"),
    }
    assert all(Path(part["log"]).exists() for part in told["processes"])
    assert told["urls"]["api"] in promo.output("status")


def test_a_second_up_is_refused_in_one_line(promo: Promo, said: str) -> None:
    done = promo.run("up", "--detach")

    assert done.returncode == 1
    assert done.stderr == "promo: already running here; see ./promo status, or stop it by ./promo down\n"


def test_a_trace_is_shown_again_and_an_unknown_one_is_a_failure(promo: Promo, said: str) -> None:
    slowest = promo.json("demo", "--buyers", "1", "--coupons", "1", "--stock", "1")["slowestTrace"]

    assert "POST /api/v1/" in promo.output("trace", slowest)
    assert promo.run("trace", "0" * 32).returncode == 1


def test_every_invariant_holds(promo: Promo, said: str) -> None:
    told = promo.json("invariants")

    assert set(told) == {"coupon", "point", "timesale"}
    assert [worker["broken"] for worker in told.values()] == [[], [], []]
    assert all(worker["checked"] for worker in told.values())


def test_the_demo_gives_away_what_is_on_offer_and_no_more(promo: Promo, said: str) -> None:
    told = promo.json("demo", "--buyers", "60", "--coupons", "20", "--stock", "10")

    assert told["faults"] == []
    assert told["coupons"]["answers"] == {"OK": 20, "SOLD_OUT": 40}
    assert told["orders"]["answers"] == {"OK": 10, "SOLD_OUT": 50}
    assert re.fullmatch("[0-9a-f]{32}", told["slowestTrace"])


def test_events_are_tailed_with_the_trace_of_the_request_that_caused_them(promo: Promo, said: str) -> None:
    with promo.command("events", "tail", "coupon.issued", "--from-beginning", "--json") as tail:
        assert tail.stdout is not None
        events = map(json.loads, tail.stdout)
        caused = next(event for event in events if event["trace_id"] == trace_of(said))
        tail.terminate()

    assert caused["topic"] == "coupon.issued"
    assert caused["value"]["policy"]["bonusPoints"] == 50


def test_events_are_replayed_and_take_effect_once(promo: Promo, said: str) -> None:
    before = promo.balance("alice")

    assert "coupon.issued" in promo.output("events", "replay", "coupon.issued", "--since", "2020-01-01T00:00:00Z")
    assert promo.json("invariants")["point"]["broken"] == []
    assert promo.balance("alice") == before


def test_there_are_no_dead_letters(promo: Promo, said: str) -> None:
    assert promo.json("dlq", "list", "coupon.issued", "--group", "point-service") == []


def test_what_the_outbox_of_nobody_holds_is_said(promo: Promo, said: str) -> None:
    done = promo.run("events", "replay", "no.such", "--since", "2020-01-01T00:00:00Z")

    assert done.returncode == 1
    assert done.stderr.startswith("promo: there is no topic no.such")


def test_down_leaves_no_process_and_the_data_stays(promo: Promo, said: str) -> None:
    before = promo.balance("alice")
    run = promo.state.run()
    promo.output("down")

    assert not any(started(part.pid) for part in (run.supervisor, *run.parts))
    assert promo.run("status").returncode == 3
    promo.output("up", "--detach", "--instances", "coupon=2")  # as the other tests know it, whatever their order
    assert promo.balance("alice") == before + 50
