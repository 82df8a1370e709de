"""Ends calls of the driver that may never return: away or frozen brokers leave commits, stops and sends hanging."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_LEFT_BEHIND: set[asyncio.Task[Any]] = set()  # the loop keeps only weak references


async def within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """What `call` returns, or raises. After `seconds` it is cancelled and left behind, whatever it makes of that.

    :raises TimeoutError: it did not end in time.
    """
    # Not a TaskGroup's and no wait_for: both wait for the cancelled call to end, and some never do.
    task = asyncio.create_task(call)  # noqa: TID251 - awaited here, and cancelled when it is late
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _leave(task)
        raise
    if not done:
        _leave(task)
        raise TimeoutError
    if task.cancelled():  # the driver cancels itself when a broker is away
        raise TimeoutError
    return task.result()


def _leave(task: asyncio.Task[Any]) -> None:
    _LEFT_BEHIND.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _LEFT_BEHIND.discard(task)
    if not task.cancelled():
        task.exception()  # taken, so that nobody logs it as lost
