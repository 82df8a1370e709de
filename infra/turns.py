"""One at a time for each key, in arrival order: who waits for a row that a neighbour holds, holds no connection.

It spares the pool, nothing more: between processes the row lock decides. The calls in flight bound who may wait.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from infra.errors import DeadlineExceeded


class Turns:
    """The turns of one process. A key that nobody holds or waits for takes no memory."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._users: dict[Hashable, int] = {}

    @asynccontextmanager
    async def take(self, key: Hashable, *, deadline: float) -> AsyncIterator[None]:
        """Wait for this key's turn and hold it for the block. `deadline` is an instant of the loop's clock.

        :raises DeadlineExceeded: the turn did not come in time.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            await _acquire(lock, deadline)
            try:
                yield
            finally:
                lock.release()
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


async def _acquire(lock: asyncio.Lock, deadline: float) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await lock.acquire()
    except TimeoutError:
        raise DeadlineExceeded() from None
