"""What a process tells of itself: how late its loop is, how much memory it may use, which dependencies answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from infra.telemetry import instruments

Probe: TypeAlias = Callable[[], Awaitable[bool]]

LAG_EVERY_SECONDS = 0.1
PROBE_SECONDS = 1.0
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


async def measure_loop_lag() -> None:
    """Observes, ten times a second, how late the loop wakes a timer."""
    instruments.MEMORY_LIMIT_BYTES.set(memory_limit_bytes())
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_SECONDS
        await asyncio.sleep(LAG_EVERY_SECONDS)
        instruments.LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))


async def watch_dependencies(
    probes: Mapping[str, Probe], needs: Mapping[str, Callable[[], bool]], every_seconds: float
) -> None:
    """Exports which dependencies answer. Both mappings may grow while it runs."""
    while True:
        for dependency, is_ready in list(needs.items()):
            instruments.DEPENDENCY_UP.labels(dependency).set(is_ready())
        for dependency, probe in list(probes.items()):
            instruments.DEPENDENCY_UP.labels(dependency).set(await _answers(probe))
        await asyncio.sleep(every_seconds)


def memory_limit_bytes() -> int:
    """The cgroup's limit; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return int(CGROUP_LIMIT.read_text())
    return 0


async def _answers(probe: Probe) -> bool:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await probe()
    except Exception:  # however a dependency says no: the driver that uses it logs why
        return False
