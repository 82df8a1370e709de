"""Keeps the parts of the stack running, and ends all of them."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from infra.local.child import Child
from infra.local.failures import StartFailed

WATCH_SECONDS = 0.2
RESTARTS_MAX = 3
RESTARTS_WITHIN_SECONDS = 60.0

Start = Callable[[], Awaitable[Child]]


@dataclass
class Part:
    """One child and how to start it again. Parts of a higher `stage` are ended before those of a lower one."""

    stage: int
    start: Start
    child: Child
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS_MAX))


class Supervisor:
    """Call it from the main thread alone: the kernel ends a child when the thread that started it ends.

    :param say: told what a person should read.
    :param changed: called after each start, so that pids can be written down.
    """

    def __init__(self, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._say = say
        self._changed = changed
        self.parts: dict[str, Part] = {}

    async def start(self, stage: int, start: Start) -> None:
        """Start a part and keep it.

        :raises StartFailed: it did not start.
        """
        child = await start()
        self.parts[child.name] = Part(stage, start, child)
        self._changed()

    async def watch(self) -> None:
        """Start again what ends by itself.

        :raises StartFailed: a part ended more than `RESTARTS_MAX` times within a minute.
        """
        while True:
            for part in list(self.parts.values()):
                if part.child.exit_code() is not None:
                    await self._again(part)
            await asyncio.sleep(WATCH_SECONDS)

    async def stop(self) -> None:
        """End all parts, stage by stage, each stage at once."""
        for stage in sorted({part.stage for part in self.parts.values()}, reverse=True):
            children = [part.child for part in self.parts.values() if part.stage == stage]
            await asyncio.gather(*(child.stop() for child in children))

    def kill(self) -> None:
        """End all parts by force, now."""
        for part in self.parts.values():
            part.child.kill()

    async def _again(self, part: Part) -> None:
        name, now = part.child.name, time.monotonic()
        told = f"{name} ended with exit code {part.child.exit_code()} (see {part.child.log})"
        if len(part.restarts) == RESTARTS_MAX and now - part.restarts[0] < RESTARTS_WITHIN_SECONDS:
            raise StartFailed(f"{told}, the {RESTARTS_MAX + 1}th time within a minute")
        self._say(f"{told}; starting it again")
        part.restarts.append(now)
        part.child = await part.start()
        self._changed()
