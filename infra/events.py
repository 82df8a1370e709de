"""What a service tells others: a message on a topic, about one aggregate."""

from dataclasses import dataclass

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `key` names its aggregate: events of a key are sent, and handled, in the order they were added.

    `traceparent` and `tracestate` hang the sending under the request that caused it; by default under the current
    span, so in a batch pass each request's own.
    """

    topic: str
    key: str
    message: Message
    traceparent: str | None = None
    tracestate: str | None = None
