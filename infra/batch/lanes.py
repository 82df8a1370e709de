"""Which lane a claim waits in. A row's claims stay together; a row that is stuck goes to a lane of its own.

A lane without work takes over what waits behind the rows of another's transaction, so that nobody waits for a stranger
while there is a free connection.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic

from infra.batch.claim import Claim, Demand, Result


class Lane(Generic[Demand, Result]):
    """A queue, and what its transaction is about. In the `apart` lane rows never share a transaction."""

    def __init__(self, *, apart: bool = False) -> None:
        self.queue: deque[Claim[Demand, Result]] = deque()
        self.filled = asyncio.Event()
        self.running = 0  # claims in the transaction now
        self.rows: frozenset[int] = frozenset()  # and their keys
        self.apart = apart

    def add(self, claim: Claim[Demand, Result]) -> None:
        self.queue.append(claim)
        self.filled.set()

    def take(self, size_max: int) -> list[Claim[Demand, Result]]:
        """The next run's claims, in arrival order."""
        queue = self.queue
        if not self.apart:
            taken = [queue.popleft() for _ in range(min(size_max, len(queue)))]
        else:
            taken = self.take_out(queue[0].key)
            queue.extend(taken[size_max:])  # in turns: the next row is not to starve
            del taken[size_max:]
        self._mark()
        self.running, self.rows = len(taken), frozenset([claim.key for claim in taken])
        return taken

    def rest(self) -> None:
        """Its transaction is over."""
        self.running, self.rows = 0, frozenset()

    def take_out(self, key: int) -> list[Claim[Demand, Result]]:
        """All waiting claims of one row."""
        taken = [claim for claim in self.queue if claim.key == key]
        self._leave([claim for claim in self.queue if claim.key != key])
        return taken

    def give_away(self) -> list[Claim[Demand, Result]]:
        """All waiting claims of rows that its transaction is not about."""
        taken = [claim for claim in self.queue if claim.key not in self.rows]
        if taken:
            self._leave([claim for claim in self.queue if claim.key in self.rows])
        return taken

    def _leave(self, claims: Sequence[Claim[Demand, Result]]) -> None:
        self.queue.clear()
        self.queue.extend(claims)
        self._mark()

    def _mark(self) -> None:
        if self.queue:
            self.filled.set()
        else:
            self.filled.clear()

    @property
    def is_alone(self) -> bool:
        """Whether all that waits is about one row."""
        return len({claim.key for claim in self.queue}) == 1

    @property
    def load(self) -> int:
        return len(self.queue) + self.running


class Lanes(Generic[Demand, Result]):
    """Rows with waiting or running claims have a lane; a new row gets the one with the least to do."""

    def __init__(self, lanes_max: int) -> None:
        self.usual: list[Lane[Demand, Result]] = [Lane() for _ in range(lanes_max)]
        self.apart: Lane[Demand, Result] = Lane(apart=True)
        self.depth = 0  # claims that wait or run
        self._home: dict[int, Lane[Demand, Result]] = {}
        self._count: dict[int, int] = {}

    def add(self, claim: Claim[Demand, Result]) -> None:
        key = claim.key
        lane = self._home.get(key)
        if lane is None:
            lane = self._home[key] = min(self.usual, key=_load)
        self._count[key] = self._count.get(key, 0) + 1
        self.depth += 1
        lane.add(claim)

    def done(self, claim: Claim[Demand, Result]) -> None:
        """It is answered or dropped; a row without claims has no lane."""
        self.depth -= 1
        left = self._count[claim.key] - 1
        if left:
            self._count[claim.key] = left
        else:
            del self._count[claim.key], self._home[claim.key]

    def set_apart(self, claims: Sequence[Claim[Demand, Result]]) -> None:
        """This row is stuck: it waits in the lane of the stuck, so that its neighbours' lane goes on."""
        self._move(claims, claims[0].key, self.apart)

    def bring_back(self, key: int) -> None:
        """Its row is free again."""
        if self._home.get(key) is self.apart:
            self._move([], key, min(self.usual, key=_load))

    def find_work(self, lane: Lane[Demand, Result]) -> None:
        """This lane has nothing to do: it takes over what waits behind another's transaction."""
        for other in self.usual:
            if other.running and other.queue:
                for claim in other.give_away():
                    self._home[claim.key] = lane
                    lane.add(claim)

    def _move(self, first: Sequence[Claim[Demand, Result]], key: int, to: Lane[Demand, Result]) -> None:
        waiting = self._home[key].take_out(key)
        self._home[key] = to
        for claim in (*first, *waiting):
            to.add(claim)


def _load(lane: Lane[Demand, Result]) -> int:
    return lane.load
