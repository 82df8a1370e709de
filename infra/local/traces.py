"""Reading traces back, from Jaeger or from the sink: both answer alike."""

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx2

from infra.local.failures import StartFailed
from infra.local.spans import Span, parse

TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.2


async def fetch(url: str, trace_id: str) -> list[Span]:
    """The spans of a trace that have arrived; none for an unknown id.

    :raises StartFailed: nobody answers at `url`.
    """
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            answer = await client.get(f"{url.rstrip('/')}/api/v3/traces/{trace_id}")
            if answer.status_code == 404:
                return []
            answer.raise_for_status()
            return parse(answer.json())
    except (httpx2.HTTPError, ValueError) as error:
        raise StartFailed(f"no trace backend answers at {url}: {error}") from error


async def fetch_whole(
    url: str, trace_id: str, is_whole: Callable[[Sequence[Span]], bool], *, seconds: float
) -> list[Span]:
    """The trace as soon as `is_whole` says so, and what there is of it when the time is over.

    :raises StartFailed: nobody answers at `url`.
    """
    until = time.monotonic() + seconds
    while True:
        spans = await fetch(url, trace_id)
        if is_whole(spans) or time.monotonic() >= until:
            return spans
        await asyncio.sleep(POLL_SECONDS)
