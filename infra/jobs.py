"""Work that comes again and again: sweeps, purges, checks. An error is logged and counted, and the job goes on."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

from infra import sentry
from infra.errors import Refused
from infra.logs import get_logger
from infra.telemetry import instruments

JITTER = 0.1  # of the pace, either way: instances that started together drift apart
OTHER = "_OTHER"
OPERATIONAL = (Refused, OSError, TimeoutError)  # something is away, busy or late; anything else is a bug

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """`run` every so many seconds, for at most `timeout_seconds`; after errors later, up to `retry_seconds_max`."""

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[object]]
    timeout_seconds: float = 60.0
    retry_seconds_max: float = 60.0

    async def loop(self) -> None:
        """Runs until it is cancelled; for `process.background(job.name, job.loop)`."""
        failures = 0
        while True:
            failures = 0 if await self.run_once() else failures + 1
            pace = self.every_seconds
            if failures:
                pace = min(pace * 2 ** min(failures, 10), max(self.retry_seconds_max, self.every_seconds))
            await asyncio.sleep(pace * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - no secret

    async def run_once(self) -> bool:
        """One run, measured. False: it failed, and the log says how."""
        started = perf_counter()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await self.run()
        except OPERATIONAL as error:
            log.warning("job.failed", job=self.name, error=_name(error))
            instruments.JOB_ERRORS.labels(self.name, _name(error)).inc()
            return False
        except Exception as error:
            log.exception("job.failed", job=self.name)
            sentry.capture(error, job=self.name)
            instruments.JOB_ERRORS.labels(self.name, OTHER).inc()
            return False
        finally:
            instruments.JOB_SECONDS.labels(self.name).observe(perf_counter() - started)
        instruments.JOB_LAST_SUCCESS.labels(self.name).set_to_current_time()
        return True


def _name(error: BaseException) -> str:
    return error.code if isinstance(error, Refused) else type(error).__name__
