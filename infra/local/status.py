"""`promo status`: what runs, where it is reached, where it writes."""

import concurrent.futures
from typing import Any
from urllib.parse import urlsplit

import httpx2

from infra.local.platform import OPERATIONS
from infra.local.state import Run, Running

ASK_SECONDS = 1.0


def describe(run: Run, folder: str) -> dict[str, Any]:
    """The running platform for a script: JSON, secrets left out but for the servers' connection strings."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        parts = list(threads.map(_part, run.parts))
    databases = [part.environment["DATABASE_URL"] for part in run.parts if part.environment]
    return {
        "ready": run.ready and all(part["state"] == "ready" for part in parts),
        "supervisor": run.supervisor.pid,
        "folder": folder,
        "urls": run.urls,
        "databases": {urlsplit(url).path.removeprefix("/"): url for url in databases},
        "processes": parts,
    }


def as_text(told: dict[str, Any]) -> list[str]:
    """The same for a person."""
    lines = [f"{'running' if told['ready'] else 'running, not ready'}, supervisor pid {told['supervisor']}", ""]
    for part in told["processes"]:
        ports = " ".join(f"{name.removesuffix('_PORT').lower()}={port}" for name, port in part["ports"].items())
        lines.append(f"{part['name']:<12} {part['state']:<10} pid {part['pid']:<8} {part['url']:<22} {ports}".rstrip())
    lines += ["", *(f"{name:<12} {url}" for name, url in told["urls"].items())]
    lines += [f"{name:<12} {url}" for name, url in told["databases"].items()]
    lines += ["", f"{'state':<12} {told['folder']}"]
    return lines + [f"{'log':<12} {part['log']}" for part in told["processes"]]


def _part(part: Running) -> dict[str, Any]:
    shown = {key: value for key, value in vars(part).items() if key not in ("environment", "started")}
    return {**shown, "state": _state(part)}


def _state(part: Running) -> str:
    if not part.is_alive():
        return "ended"
    if OPERATIONS not in part.ports:
        return "ready"
    try:
        answer = httpx2.get(f"http://127.0.0.1:{part.ports[OPERATIONS]}/readyz", timeout=ASK_SECONDS)
    except httpx2.HTTPError:
        return "silent"
    return "ready" if answer.status_code == 200 else "not ready"
