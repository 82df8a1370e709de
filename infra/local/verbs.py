"""Commands that a process of the platform answers itself: run as `python -m <process> <verb>` on the running data."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.local.failures import StartFailed
from infra.local.platform import GROUPS, TOPICS, WORKERS
from infra.local.state import ROOT, Run

SECONDS_MAX = 600.0


@dataclass(frozen=True)
class Answer:
    """What a process printed, and its exit code."""

    process: str
    exit_code: int
    output: str
    errors: str

    def parsed(self) -> Any:
        """The output as JSON; null when there is none."""
        return json.loads(self.output or "null")


def ask(run: Run, process: str, arguments: Sequence[str]) -> Answer:
    """Run one verb of one process on the data of the running platform.

    :raises StartFailed: the process is not part of it, or took longer than ten minutes.
    """
    part = run.part(process)
    if part is None:
        raise StartFailed(f"{process} is not running; see ./promo status")
    command = [sys.executable, "-m", process, *arguments]
    env = {**os.environ, **part.environment}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StartFailed(f"{process} {' '.join(arguments)} took longer than {SECONDS_MAX:.0f} s") from error
    return Answer(process, done.returncode, done.stdout, done.stderr)


def ask_workers(run: Run, arguments: Sequence[str]) -> list[Answer]:
    """Run one verb of every worker, side by side."""
    with ThreadPoolExecutor(len(WORKERS)) as threads:
        return list(threads.map(lambda process: ask(run, process.name, arguments), WORKERS))


def show(answers: Sequence[Answer], say: Callable[[str], None]) -> None:
    """Print what each process said; its errors only when it failed."""
    for answer in answers:
        told = [answer.output, answer.errors if answer.exit_code else ""]
        said = "\n".join(filter(None, (text.strip() for text in told)))
        if said:
            say(f"\n{answer.process}\n{said}")


def owner_of_topic(topic: str) -> str:
    """The process whose outbox feeds `topic`.

    :raises StartFailed: there is no such topic.
    """
    if topic not in TOPICS:
        raise StartFailed(f"there is no topic {topic}; there are {', '.join(TOPICS)}")
    return TOPICS[topic]


def owner_of_group(group: str) -> str:
    """The process in which `group` consumes.

    :raises StartFailed: there is no such group.
    """
    if group not in GROUPS:
        raise StartFailed(f"there is no consumer group {group}; there is {', '.join(GROUPS)}")
    return GROUPS[group]
