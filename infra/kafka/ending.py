"""Ends calls of the driver that may never return: away or frozen brokers leave starts, commits and stops hanging."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02
UNDO_SECONDS_MAX = 30.0
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
        _leave(task).cancel()
        raise
    if not done:
        _leave(task).cancel()
        raise TimeoutError
    if task.cancelled():  # the driver cancels itself when a broker is away
        raise TimeoutError
    return task.result()


async def begin(
    seconds: float, start: Coroutine[Any, Any, None], close: Callable[[], Awaitable[None]], opened: Callable[[], bool]
) -> None:
    """Start a client. One that is late or fails is closed; that may go on behind.

    `opened` says that it has its first connection under control: cancelled before, it would leave it open.

    :raises TimeoutError: it did not start in time.
    """
    task = asyncio.create_task(start)  # noqa: TID251 - awaited here, and undone when it is late
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _leave(asyncio.create_task(_undo(task, close, opened)))  # noqa: TID251 - nobody may wait for it
        raise
    if not task.done() or task.cancelled():
        _leave(asyncio.create_task(_undo(task, close, opened)))  # noqa: TID251 - as above
        raise TimeoutError
    if task.exception() is not None:
        await close()
    task.result()


async def _undo(task: asyncio.Task[None], close: Callable[[], Awaitable[None]], opened: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(UNDO_SECONDS_MAX):
            while not task.done() and not opened():  # noqa: ASYNC110 - the driver has no event for it
                await asyncio.sleep(LOOK_SECONDS)
            task.cancel()
            await asyncio.wait({task})
    finally:
        await close()
    if not task.cancelled():
        task.exception()


def _leave(task: asyncio.Task[T]) -> asyncio.Task[T]:
    _LEFT_BEHIND.add(task)
    task.add_done_callback(_forget)
    return task


def _forget(task: asyncio.Task[Any]) -> None:
    _LEFT_BEHIND.discard(task)
    if not task.cancelled():
        task.exception()  # taken, so that nobody logs it as lost
