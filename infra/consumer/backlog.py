"""Records that were taken and are not finished: what may be worked on now, what waits, and which offset is safe.

A record that failed waits for its next try, and the later records of its key wait behind it; all others flow.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from infra.consumer.record import BadRecord, Record, decode, event_id_of, headers_of
from infra.kafka import Place, Raw

Key: TypeAlias = tuple[Place, bytes | int]


@dataclass(slots=True, eq=False)
class Entry:
    """A record and how its tries went. It is `record`, or `bad`. `topic` is the name its consumer knows."""

    raw: Raw
    topic: str
    place: Place
    key: Key
    headers: dict[str, str]
    event_id: UUID
    record: Record | None = None
    bad: BadRecord | None = None
    attempts: int = 0  # that count: alone, and while Postgres was there
    runs: int = 0  # transactions it was part of
    due: float = 0.0  # when its next try is, on the loop's clock
    error: Exception | None = None


@dataclass(slots=True)
class _Progress:
    """Of one partition: what is unfinished, in the order of offsets, and where the next record will be."""

    unfinished: dict[int, Entry] = field(default_factory=dict)
    next: int = 0
    stored: int = -1


class Backlog:
    """The records of one assignment."""

    def __init__(self, prefix: str) -> None:
        """`prefix` stands before the topics' names and is taken off."""
        self._prefix = len(prefix)
        self._fresh: dict[Entry, None] = {}
        self._blocked: dict[Key, deque[Entry]] = {}  # the first of each has failed, the others wait behind it
        self._progress: dict[Place, _Progress] = {}

    def add(self, raws: Iterable[Raw]) -> list[Entry]:
        """Take records, in the order of their partitions."""
        entries = []
        for raw in raws:
            place = Place(raw.topic, raw.partition)
            # Without a key a record has no order to keep.
            entry = self._entry(raw, place, (place, raw.key if raw.key is not None else raw.offset))
            progress = self._progress.setdefault(place, _Progress())
            progress.unfinished[raw.offset] = entry
            progress.next = raw.offset + 1
            self._queue(entry)
            entries.append(entry)
        return entries

    def take(self, now: float) -> list[list[Entry]]:
        """Groups to work on now: all records that never failed, then each that is due for another try, alone."""
        groups = [list(self._fresh)] if self._fresh else []
        return groups + [[waiting[0]] for waiting in self._blocked.values() if waiting[0].due <= now]

    def may_run(self, entry: Entry) -> bool:
        """Whether no earlier record of its key waits."""
        waiting = self._blocked.get(entry.key)
        return waiting is None or waiting[0] is entry

    def done(self, entry: Entry) -> None:
        """It needs nothing any more; who waited behind it is free."""
        self._fresh.pop(entry, None)
        self._progress[entry.place].unfinished.pop(entry.raw.offset, None)
        waiting = self._blocked.get(entry.key)
        if waiting is not None and waiting[0] is entry:
            del self._blocked[entry.key]
            self._fresh |= dict.fromkeys(list(waiting)[1:])

    def wait(self, entry: Entry, due: float) -> None:
        """It is tried again at `due`, and the later records of its key after it."""
        entry.due = due
        if entry.key not in self._blocked:
            behind = [each for each in self._fresh if each.key == entry.key]
            self._blocked[entry.key] = deque(behind)  # the first of them is the entry itself
            for each in behind:
                del self._fresh[each]

    def next_due(self) -> float | None:
        """When the next try is; 0 if something can be worked on now; None if nothing waits."""
        if self._fresh:
            return 0.0
        return min((waiting[0].due for waiting in self._blocked.values()), default=None)

    def offsets(self) -> dict[Place, int]:
        """Per partition the oldest unfinished record, where that has moved since `stored`."""
        found = {}
        for place, progress in self._progress.items():
            offset = next(iter(progress.unfinished), progress.next)
            if offset > progress.stored:
                found[place] = offset
        return found

    def stored(self, offsets: dict[Place, int]) -> None:
        """The group knows these."""
        for place, offset in offsets.items():
            if place in self._progress:
                self._progress[place].stored = offset

    def oldest(self, place: Place) -> Entry | None:
        """The oldest unfinished record of a partition."""
        progress = self._progress.get(place)
        return next(iter(progress.unfinished.values()), None) if progress else None

    def position(self, place: Place) -> int | None:
        """Up to where a partition is finished; None: nothing of it was seen."""
        progress = self._progress.get(place)
        return next(iter(progress.unfinished), progress.next) if progress else None

    def __len__(self) -> int:
        return len(self._fresh) + sum(map(len, self._blocked.values()))

    def clear(self) -> None:
        """The assignment changed: what is not finished comes again, to whoever has its partition now."""
        self._fresh.clear()
        self._blocked.clear()
        self._progress.clear()

    def _queue(self, entry: Entry) -> None:
        waiting = self._blocked.get(entry.key)
        if waiting is None:
            self._fresh[entry] = None
        else:
            waiting.append(entry)

    def _entry(self, raw: Raw, place: Place, key: Key) -> Entry:
        headers = headers_of(raw)
        entry = Entry(raw, raw.topic[self._prefix :], place, key, headers, event_id_of(raw, headers))
        try:
            entry.record = decode(raw, headers, entry.event_id, entry.topic)
        except BadRecord as bad:
            entry.bad = bad
        return entry
