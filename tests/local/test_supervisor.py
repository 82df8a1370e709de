"""Nothing outlives the supervisor, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local.child import last_line, run_once, spawn
from infra.local.failures import StartFailed
from infra.local.ports import free_ports
from infra.local.state import ROOT, started

SECONDS_MAX = 15.0


def until(true: Callable[[], bool]) -> None:
    """Wait for a condition of other processes."""
    end = time.monotonic() + SECONDS_MAX
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


class Program:
    """A supervisor in a process of its own, with a Valkey and a child."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.output = folder / "output.txt"
        command = [sys.executable, "-m", "tests.local.programs", str(folder), str(free_ports(1)[0]), kind]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    def pids(self) -> dict[str, int]:
        try:
            told: dict[str, int] = json.loads((self.folder / "pids.json").read_text())
        except FileNotFoundError:
            return {}
        return told

    def until_up(self) -> dict[str, int]:
        until(lambda: len(self.pids()) == 2)
        return self.pids()

    def says(self, text: str) -> bool:
        return text in self.output.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    programs: list[Program] = []

    def make(kind: str) -> Program:
        programs.append(Program(tmp_path, kind))
        return programs[-1]

    yield make
    for program in programs:
        program.process.kill()
        program.process.wait()
        for pid in program.pids().values():
            if started(pid):
                os.kill(pid, signal.SIGKILL)


def gone(pids: dict[str, int]) -> bool:
    return not any(started(pid) for pid in pids.values())


def test_a_killed_supervisor_leaves_no_child(start: Callable[[str], Program]) -> None:
    program = start("stubborn")
    pids = program.until_up()
    program.process.kill()

    until(lambda: gone(pids))


async def test_a_child_listens_to_interrupts_though_its_parent_ignores_them(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the background job of a shell does
    try:
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        await run_once("some", [sys.executable, "-c", code], tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, before)

    assert last_line(tmp_path / "log") == "True"


def test_a_first_ctrl_c_asks_and_a_second_one_ends_by_force(start: Callable[[str], Program]) -> None:
    program = start("stubborn")
    pids = program.until_up()
    until(lambda: "on" in (program.folder / "child.log").read_text())
    program.process.send_signal(signal.SIGINT)
    until(lambda: program.says("stopping"))
    assert started(pids["child"])  # it does not listen to the first one
    program.process.send_signal(signal.SIGINT)

    assert program.process.wait(SECONDS_MAX) == 0
    assert program.says("by force")
    assert gone(pids)


def test_a_part_that_ends_is_started_again_but_not_for_ever(start: Callable[[str], Program]) -> None:
    program = start("dying")

    assert program.process.wait(SECONDS_MAX) == 1
    assert program.output.read_text().count("starting it again") == 3
    assert program.says("the 4th time within a minute")
    assert gone(program.pids())


async def test_a_child_that_ends_at_its_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"^some failed: the reason \(see "):
        await run_once("some", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log")


async def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"took longer than 0 s"):
        await run_once("some", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", seconds=0.1)


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"^some: cannot execute /no/such/program$"):
        spawn("some", ["/no/such/program"], tmp_path / "log")
