"""Running the tools of the virtual environment on the checkout."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.state import ROOT

BIN = Path(sys.executable).parent
SECONDS_MAX = 600


@dataclass(frozen=True)
class Done:
    """The outcome of a step: what is wrong (empty: nothing), and a note for a person."""

    wrong: str
    note: str = ""


def tool(name: str, *arguments: str) -> Done:
    """Run a program of the virtual environment in the root of the checkout; wrong is all it said when it failed."""
    return run([str(BIN / name), *arguments])


def run(command: Sequence[str]) -> Done:
    """Run any command there."""
    done = start(command)
    said = (done.stdout + done.stderr).strip()
    return Done((said or f"exit code {done.returncode}") if done.returncode else "")


def start(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command there to its end. The environment's programs are on its PATH, for protoc's plugins are."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def tracked(*patterns: str) -> list[str]:
    """The files of the checkout that git knows, or would take."""
    listed = start(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns])
    return sorted(path for path in set(listed.stdout.splitlines()) if (ROOT / path).exists())
