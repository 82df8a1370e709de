"""Programs that tests start as processes of their own, and wait for."""

import asyncio
import json
import sys
from pathlib import Path

from infra.local.child import Child, spawn
from infra.local.servers import start_valkey
from infra.local.supervisor import Supervisor
from infra.local.up import until_signal

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)
DYING = "import time; time.sleep(0.05)"


async def supervise(folder: Path, port: int, kind: str) -> None:
    """A supervisor with a real server and a child of the kind asked for; tells their pids by a file."""

    def changed() -> None:
        told = {name: part.child.pid for name, part in supervisor.parts.items()}
        (folder / "pids.new").write_text(json.dumps(told))
        (folder / "pids.new").rename(folder / "pids.json")

    async def start_server() -> Child:
        return (await start_valkey(folder, port)).child

    async def start_child() -> Child:
        code = STUBBORN if kind == "stubborn" else DYING
        return spawn("child", [sys.executable, "-c", code], folder / "child.log")

    supervisor = Supervisor(lambda line: print(line, flush=True), changed)
    async with until_signal(supervisor, lambda line: print(line, flush=True)):
        await supervisor.start(0, start_server)
        await supervisor.start(1, start_child)
        await supervisor.watch()


if __name__ == "__main__":
    asyncio.run(supervise(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
