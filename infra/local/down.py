"""`promo up --detach`, `promo down`: the supervisor as a process of its own, started and ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.local.failures import StartFailed
from infra.local.state import ROOT, Running, State

POLL_SECONDS = 0.1
READY_SECONDS = 300.0  # a first start fetches Kafka
STOP_SECONDS = 60.0

Say = Callable[[str], None]


def detach(arguments: Sequence[str], state: State, say: Say) -> None:
    """Run `promo up` in the background and return when it is ready; its lines are passed on meanwhile.

    :raises StartFailed: it ended, or was not ready in time.
    """
    if state.find_run() is not None:
        raise StartFailed("already running here; see ./promo status, or stop it by ./promo down")
    state.folder.mkdir(parents=True, exist_ok=True)
    log = state.folder / "up.log"
    with log.open("wb") as output:
        command = [sys.executable, "-u", "-m", "infra.local", "up", *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _follow(process, log, state, say)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _follow(process: subprocess.Popen[bytes], log: Path, state: State, say: Say) -> None:
    until = time.monotonic() + READY_SECONDS
    shown = 0
    while True:
        ended = process.poll() is not None
        run = state.find_run()
        ready = run is not None and run.ready and run.supervisor.pid == process.pid
        lines = log.read_text(errors="replace").splitlines()
        for line in lines[shown:]:
            say(line)
        shown = len(lines)
        if ready:
            return
        if ended:
            raise StartFailed(f"it did not start; what it said is kept in {log}")
        if time.monotonic() > until:
            process.terminate()
            raise StartFailed(f"it was not ready in {READY_SECONDS:.0f} s; see {log}")
        time.sleep(POLL_SECONDS)


def down(state: State) -> bool:
    """End the running platform, if one runs, and wait until nothing of it is left. Whether there was something.

    :raises StartFailed: something of it could not be ended.
    """
    last = state.last_run()
    if last is None:
        return False
    everything = [last.supervisor, *last.parts]
    if not any(part.is_alive() for part in everything):
        return False
    if last.supervisor.is_alive():
        os.kill(last.supervisor.pid, signal.SIGTERM)
    else:  # the supervisor was killed: nobody else ends what it left
        _signal(last.parts, signal.SIGINT)
    if _left_after(everything, STOP_SECONDS):
        _signal(everything, signal.SIGKILL)
    if left := _left_after(everything, STOP_SECONDS):
        raise StartFailed("still running: " + ", ".join(f"{part.name} (pid {part.pid})" for part in left))
    return True


def _signal(parts: Sequence[Running], number: signal.Signals) -> None:
    for part in parts:
        if part.is_alive():
            os.kill(part.pid, number)


def _left_after(parts: Sequence[Running], seconds: float) -> list[Running]:
    """What is still alive once everything ended or the time is over."""
    until = time.monotonic() + seconds
    while left := [part for part in parts if part.is_alive()]:
        if time.monotonic() > until:
            break
        time.sleep(POLL_SECONDS)
    return left
