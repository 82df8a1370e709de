"""The state folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.failures import NotRunning, StartFailed
from infra.local.state import Run, Running, State, started


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def this_process() -> Running:
    return Running("supervisor", os.getpid(), started(os.getpid()), "some.log")


def test_what_was_written_is_read_back_and_only_its_owner_may_read_it(state: State) -> None:
    part = Running("coupon", 1, "some", "coupon.log", ports={"PORT": 1}, environment={"JWT_SECRET": "s"})
    run = Run(this_process(), (part,), {"api": "http://x"}, ready=True)
    with state.held():
        state.write(run)

    assert state.run() == run
    assert run.token_secret == "s"
    assert (state.folder / "run.json").stat().st_mode & 0o777 == 0o600


def test_a_run_whose_supervisor_is_gone_does_not_run(state: State) -> None:
    with state.held():
        state.write(Run(Running("supervisor", os.getpid(), "long ago", "some.log")))

    assert state.find_run() is None
    assert state.last_run() is not None
    with pytest.raises(NotRunning, match=r"start it by \./promo up"):
        state.run()


def test_nothing_was_written_yet(state: State) -> None:
    assert state.last_run() is None


def test_one_folder_has_one_supervisor(state: State) -> None:
    with state.held(), pytest.raises(StartFailed, match="already running here"), state.held():
        pass
    with state.held():
        pass


def test_a_secret_is_long_kept_and_private(state: State) -> None:
    secret = state.secret("JWT_SECRET")

    assert len(secret) >= 32
    assert state.secret("JWT_SECRET") == secret
    assert state.secret("SERVICE_TOKEN_SECRET") != secret
    assert (state.folder / "jwt_secret.secret").stat().st_mode & 0o777 == 0o600


def test_forgetting_leaves_no_folder(state: State) -> None:
    state.secret("JWT_SECRET")
    state.forget()

    assert not state.folder.exists()


def test_a_process_that_ended_is_not_alive_even_as_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        running = Running("some", process.pid, started(process.pid), "some.log")
        assert running.is_alive()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, not yet collected
        assert not running.is_alive()
