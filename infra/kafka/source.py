"""A consumer whose calls all end, as a member of its group."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from infra.kafka.ending import begin, within
from infra.kafka.producer import KafkaAway
from infra.logs import get_logger
from infra.settings import Settings
from infra.telemetry import instruments

Raw: TypeAlias = Any  # aiokafka.ConsumerRecord; the package has no types
Place: TypeAlias = TopicPartition  # a partition: .topic, .partition
POLL_MARGIN_SECONDS = 5.0

log = get_logger(__name__)


def error_type(error: BaseException) -> str:
    """Kafka's name of an error, or its class."""
    return type(error.__cause__ or error).__name__


class Source:
    """Records of some topics, shared with the other members of the group. An async context manager.

    `generation` changes with each assignment: what was polled before may be handled by another member now.
    """

    def __init__(self, settings: Settings, *, group: str, topics: Sequence[str]) -> None:
        self.generation = 0
        self.group, self.topics = group, tuple(topics)
        self._settings = settings
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_brokers,
            group_id=group,
            client_id=f"{settings.service_name}-consumer",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_poll_records=settings.kafka_poll_records_max,
            max_poll_interval_ms=settings.kafka_max_poll_interval_ms,
            session_timeout_ms=settings.kafka_session_timeout_ms,
            heartbeat_interval_ms=settings.kafka_heartbeat_interval_ms,
            request_timeout_ms=max(settings.kafka_request_timeout_ms, settings.kafka_session_timeout_ms + 1_000),
            metadata_max_age_ms=settings.kafka_metadata_max_age_ms,
        )

    async def __aenter__(self) -> Self:
        """:raises KafkaAway: no broker answers, or a topic is not there."""
        self._consumer.subscribe(topics=self.topics, listener=_Rebalances(self))
        client = self._consumer._client
        try:
            await begin(self._start_seconds, self._consumer.start(), self._close, lambda: client._sync_task is not None)
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaAway(f"{self._settings.kafka_brokers}: {', '.join(self.topics)}") from error
        return self

    @property
    def _start_seconds(self) -> float:
        """A former self that could not say goodbye is a member until its session ends; then this one gets its part."""
        return self._settings.kafka_start_seconds + self._settings.kafka_session_timeout_ms / 1000

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._close()

    async def poll(self, wait_seconds: float) -> list[Raw]:
        """What has come, at most `kafka_poll_records_max` records, in the order of each partition.

        :raises KafkaAway: the driver does not come back, or gave up.
        """
        started = perf_counter()
        try:
            found = await within(
                wait_seconds + POLL_MARGIN_SECONDS, self._consumer.getmany(timeout_ms=int(wait_seconds * 1000))
            )
        except (KafkaError, OSError, TimeoutError) as error:
            self._observe("poll", started, error)
            raise KafkaAway("poll") from error
        if found:
            self._observe("poll", started)
        return [record for records in found.values() for record in records]

    async def commit(self, offsets: Mapping[Place, int]) -> bool:
        """Whether they are stored. Not if the partitions have gone to another member: it repeats what is known.

        :raises KafkaAway: the coordinator does not answer.
        """
        started = perf_counter()
        try:
            await within(self._settings.kafka_send_seconds, self._consumer.commit(dict(offsets)))
        except (CommitFailedError, IllegalStateError) as error:
            self._observe("commit", started, error)
            log.info("kafka.commit_refused", group=self.group)
            return False
        except (KafkaError, OSError, TimeoutError) as error:
            self._observe("commit", started, error)
            raise KafkaAway("commit") from error
        self._observe("commit", started)
        return True

    def _observe(self, operation: str, started: float, error: Exception | None = None) -> None:
        """One call may be about all topics, so the destination is all of them."""
        failed = type(error).__name__ if error else ""
        labels = (operation, ",".join(self.topics), self.group, failed)
        instruments.MESSAGING_SECONDS.labels(*labels).observe(perf_counter() - started)

    async def ends(self) -> dict[Place, int]:
        """The end of each assigned partition. :raises KafkaAway:"""
        try:
            ends: dict[Place, int] = await within(
                self._settings.kafka_send_seconds, self._consumer.end_offsets(list(self.assignment()))
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaAway("end offsets") from error
        return ends

    async def position(self, place: Place) -> int:
        """Where the next poll of an assigned partition begins. :raises KafkaAway:"""
        try:
            found: int = await within(self._settings.kafka_send_seconds, self._consumer.position(place))
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaAway("position") from error
        return found

    def assignment(self) -> frozenset[Place]:
        """The partitions this member has."""
        return frozenset(self._consumer.assignment())

    def hold(self, on: bool) -> None:
        """While held, polls give nothing and keep the membership."""
        assigned, held = self.assignment(), self._consumer.paused()
        if on:
            self._consumer.pause(*(assigned - held))
        else:
            self._consumer.resume(*(assigned & held))

    async def _close(self) -> None:
        # It raises CancelledError, or never returns, while the broker is away.
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await within(self._settings.kafka_stop_seconds, self._consumer.stop())


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # the package has no types
    def __init__(self, source: Source) -> None:
        self._source = source

    def on_partitions_revoked(self, revoked: Iterable[Place]) -> None:
        self._source.generation += 1

    def on_partitions_assigned(self, assigned: Iterable[Place]) -> None:
        self._source.generation += 1
