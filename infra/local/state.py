"""The state folder: what runs, where, under which secrets; and the data of the servers."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.local.failures import NotRunning, StartFailed

ROOT = Path(__file__).parents[2]
FOLDER_NAME = "PROMO_STATE"


@dataclass(frozen=True)
class Running:
    """One process of a run. `started` tells it from a later process under the same pid."""

    name: str
    pid: int
    started: str
    log: str
    url: str = ""
    service: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def is_alive(self) -> bool:
        return self.started != "" and started(self.pid) == self.started


@dataclass(frozen=True)
class Run:
    """What `promo up` wrote down of itself."""

    supervisor: Running
    parts: tuple[Running, ...] = ()
    urls: dict[str, str] = field(default_factory=dict)
    ready: bool = False

    def part(self, name: str) -> Running | None:
        return next((part for part in self.parts if part.name == name), None)

    @property
    def token_secret(self) -> str:
        """The secret under which this run's user tokens are signed."""
        return next(part.environment["JWT_SECRET"] for part in self.parts if part.environment)


class State:
    """The folder, by default `.promo/stack` of the checkout; `PROMO_STATE` names another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_this_checkout(cls) -> "State":
        named = os.environ.get(FOLDER_NAME)
        return cls(Path(named).resolve() if named else ROOT / ".promo" / "stack")

    @property
    def _run_file(self) -> Path:
        return self.folder / "run.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the one supervisor of this folder.

        :raises StartFailed: another one is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StartFailed("already running here; see ./promo status, or stop it by ./promo down") from error
            yield

    def write(self, run: Run) -> None:
        """Replace the run's file as a whole; only its owner may read it, for it holds the secrets."""
        fresh = self._run_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(asdict(run), indent=1))
        fresh.replace(self._run_file)

    def last_run(self) -> Run | None:
        """What the last `up` wrote, whether it still runs or not."""
        try:
            told: dict[str, Any] = json.loads(self._run_file.read_text())
        except FileNotFoundError:
            return None
        parts = tuple(Running(**part) for part in told["parts"])
        return Run(Running(**told["supervisor"]), parts, told["urls"], told["ready"])

    def find_run(self) -> Run | None:
        """The run whose supervisor is alive, if there is one."""
        last = self.last_run()
        return last if last is not None and last.supervisor.is_alive() else None

    def run(self) -> Run:
        """The running platform.

        :raises NotRunning: there is none.
        """
        found = self.find_run()
        if found is None:
            raise NotRunning
        return found

    def secret(self, name: str) -> str:
        """A random secret of at least 32 bytes, made once and kept."""
        file = self.folder / f"{name.lower()}.secret"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(36))
        return file.read_text()

    def forget(self) -> None:
        """Remove all data, logs and secrets."""
        from infra.local.servers.postgres import forget_postgres  # late: the drivers cost half a second

        forget_postgres(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def started(pid: int) -> str:
    """When the process `pid` was started, in words of the system; empty when there is none (or only its zombie)."""
    if Path("/proc/self/stat").exists():
        try:
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if told[0] == "Z" else told[19]
    told_by_ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told_by_ps.stdout.strip()
