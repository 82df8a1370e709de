"""How far behind a consumer is, and whether it is stuck.

A consumer can stay a member, answer heartbeats and never return a record again. So what it returns is compared with
the ends of its partitions: with records ahead and nothing taken for `consumer_stall_seconds`, it is replaced.
"""

import asyncio
from datetime import timedelta

from infra.consumer.backlog import Backlog
from infra.consumer.work import Work
from infra.kafka import KafkaAway, Place, Source
from infra.settings import WorkerSettings
from infra.telemetry import instruments

UNASSIGNED_FACTOR = 3  # a member without partitions may be a surplus one: it is given more time


class Watch:
    """Looks every `consumer_lag_seconds` at one source after the other."""

    def __init__(self, settings: WorkerSettings, group: str, backlog: Backlog, work: Work) -> None:
        self._settings, self._group, self._backlog, self._work = settings, group, backlog, work
        self._seen: set[Place] = set()
        self._looked = self._alive = 0.0

    def begin(self, source: Source) -> None:
        """From now on look at this one."""
        self._source = source
        self._unstored: float | None = None  # since when offsets cannot be stored
        self._looked = self._alive = asyncio.get_running_loop().time()

    def moved(self) -> None:
        """Records were taken, or are being worked on."""
        self._alive = asyncio.get_running_loop().time()

    def commit_failed(self) -> None:
        """Offsets could not be stored. :raises KafkaAway: not for a long time now."""
        now = asyncio.get_running_loop().time()
        self._unstored = self._unstored or now
        if now - self._unstored > self._settings.consumer_stall_seconds:
            raise KafkaAway(f"no commit for {now - self._unstored:.0f} s")

    def committed(self) -> None:
        """Offsets were stored."""
        self._unstored = None

    async def look(self) -> None:
        """:raises KafkaAway: the source is stuck."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < self._settings.consumer_lag_seconds:
            return
        self._looked = now
        if len(self._backlog):
            self._alive = now
        try:
            behind = await self._measure()
        except KafkaAway:
            pass
        else:
            if behind == 0 and self._source.assignment():
                self._alive = now
        patience = self._settings.consumer_stall_seconds * (1 if self._source.assignment() else UNASSIGNED_FACTOR)
        if now - self._alive > patience:
            raise KafkaAway(f"nothing taken for {now - self._alive:.0f} s")

    async def _measure(self) -> int:
        """How many records are ahead, in all partitions. :raises KafkaAway:"""
        ends = await self._source.ends()
        instruments.ASSIGNED_PARTITIONS.labels(self._group).set(len(ends))
        for gone in self._seen - ends.keys():
            for gauge in (instruments.CONSUMER_LAG_MESSAGES, instruments.CONSUMER_LAG_SECONDS):
                gauge.remove(*self._labels(gone))
        self._seen = set(ends)
        behind = 0
        for place, end in ends.items():
            position = self._backlog.position(place)
            if position is None:
                position = await self._source.position(place)
            ahead = max(0, end - position)
            behind += ahead
            instruments.CONSUMER_LAG_MESSAGES.labels(*self._labels(place)).set(ahead)
            instruments.CONSUMER_LAG_SECONDS.labels(*self._labels(place)).set(self._age(place) if ahead else 0)
        return behind

    def _age(self, place: Place) -> float:
        """Of the oldest record that is not finished, by the database's clock; of one that was not taken: since when."""
        now, entry = asyncio.get_running_loop().time(), self._backlog.oldest(place)
        if entry is None or entry.record is None or self._work.at is None:
            return now - self._alive
        at, read = self._work.at
        return max(0.0, (at + timedelta(seconds=now - read) - entry.record.time).total_seconds())

    def _labels(self, place: Place) -> tuple[str, str, str]:
        return place.topic, str(place.partition), self._group
