"""The spans of a poll: a trace of its own per topic, with a link to every record it returned, and its commit."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from infra import telemetry
from infra.consumer.backlog import Entry
from infra.telemetry import Link, Span, SpanKind, names


class Poll:
    """One poll that returned something; an empty one has no span."""

    def __init__(self, entries: Sequence[Entry], group: str) -> None:
        self._group = group
        topics: dict[str, list[Entry]] = {}
        for entry in entries:
            topics.setdefault(entry.raw.topic, []).append(entry)
        self._spans = {topic: self._span(topic, found) for topic, found in topics.items()}

    @contextmanager
    def committing(self) -> Iterator[None]:
        """The commit of its offsets."""
        with ExitStack() as stack:
            for topic, span in self._spans.items():
                attributes = self._attributes("commit", "settle", topic)
                context = telemetry.context_of(span)
                stack.enter_context(telemetry.span(f"commit {topic}", SpanKind.CLIENT, attributes, context=context))
            yield

    def end(self) -> None:
        """What it returned is worked off, or waits."""
        for span in self._spans.values():
            span.end()

    def _span(self, topic: str, entries: Sequence[Entry]) -> Span:
        found = [telemetry.span_context(telemetry.extract(entry.headers)) for entry in entries]
        links: list[Link] = [telemetry.link(context, "send") for context in found if context.is_valid]
        attributes = self._attributes("poll", "receive", topic)
        return telemetry.start_span(
            f"poll {topic}",
            SpanKind.CLIENT,
            context=telemetry.empty_context(),
            attributes={**attributes, names.MESSAGING_BATCH_MESSAGE_COUNT: len(entries)},
            links=links,
        )

    def _attributes(self, name: str, kind: str, topic: str) -> dict[str, str]:
        return {
            names.MESSAGING_SYSTEM: "kafka",
            names.MESSAGING_OPERATION_NAME: name,
            names.MESSAGING_OPERATION_TYPE: kind,
            names.MESSAGING_DESTINATION_NAME: topic,
            names.MESSAGING_CONSUMER_GROUP_NAME: self._group,
            names.OPERATION: f"kafka.{name} {topic}",
        }
