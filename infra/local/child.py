"""A child process of the local stack: started, awaited, ended by its pid, never left behind."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.failures import StartFailed

LAUNCHER = Path(__file__).with_name("launch.py")
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Child:
    """One running process. It leads a session of its own, so that Ctrl-C reaches the supervisor alone."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals
    stop_seconds: float

    @property
    def pid(self) -> int:
        return self.process.pid

    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    async def wait(self, timeout_seconds: float) -> bool:
        """Whether the process ended within the time."""
        until = time.monotonic() + timeout_seconds
        while self.process.poll() is None:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    async def stop(self) -> None:
        """End it with its own signal, and by force when it takes longer than `stop_seconds`."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            if not await self.wait(self.stop_seconds):
                self.kill()

    def kill(self) -> None:
        """SIGKILL its whole session: a Postgres killed alone leaves its workers for seconds."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def spawn(
    name: str,
    command: Sequence[object],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str = "",
    stop_signal: signal.Signals = signal.SIGTERM,
    stop_seconds: float = 20.0,
) -> Child:
    """Start `command` with its output appended to `log`. Call it from the main thread: the child ends with the thread.

    :raises StartFailed: the program cannot be executed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    program = shutil.which(str(command[0]))
    if program is None:
        raise StartFailed(f"{name}: cannot execute {command[0]}")
    wrapped = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), user, program, *map(str, command[1:])]
    with log.open("ab") as output:
        process = subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    return Child(name, process, log, stop_signal, stop_seconds)


async def run_once(
    name: str,
    command: Sequence[object],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = Path("/"),
    user: str = "",
    seconds: float = 60.0,
) -> None:
    """Run a command to its end.

    :raises StartFailed: it took longer than `seconds` or its exit code is not 0.
    """
    child = spawn(name, command, log, env=env, cwd=cwd, user=user)
    try:
        if not await child.wait(seconds):
            raise StartFailed(f"{name} took longer than {seconds:.0f} s; see {log}")
    finally:
        child.kill()
    if child.exit_code():
        raise StartFailed(f"{name} failed: {last_line(log)} (see {log})")


async def until_ready(
    child: Child, answers: Callable[[], Awaitable[object]], not_yet: tuple[type[Exception], ...], *, seconds: float
) -> None:
    """Ask until an answer comes. The child is killed when none comes in time.

    :raises StartFailed: the process ended, or did not answer within `seconds`.
    """
    until = time.monotonic() + seconds
    not_yet = (*not_yet, TimeoutError)
    try:
        while True:
            if child.exit_code() is not None:
                raise StartFailed(f"{child.name} ended at its start: {last_line(child.log)} (see {child.log})")
            try:
                await asyncio.wait_for(answers(), timeout=max(until - time.monotonic(), POLL_SECONDS))
                if child.exit_code() is None:  # else somebody else answered
                    return
            except not_yet as error:
                if time.monotonic() >= until:
                    raise StartFailed(f"{child.name} gave no answer in {seconds:.0f} s; see {child.log}") from error
            await asyncio.sleep(POLL_SECONDS)
    except BaseException:
        child.kill()
        raise


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "no output"
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
