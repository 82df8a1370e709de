"""A Kafka record as an event, or why it is none."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from google.protobuf.message import Message

from infra import render
from infra.kafka import Raw

MessageT = TypeVar("MessageT", bound=Message)

SPECVERSION = "1.0"
MAJOR = 1  # of the schemas these consumers know
MAJOR_OF_SCHEMA = re.compile(r"\.v(\d+)\.\w+$")
REPLAY_GROUP = "promo-replay-group"
MALFORMED, UNKNOWN_VERSION = "malformed", "unknown_version"


class BadRecord(Exception):
    """A record that no try will make good. `reason` is a word for counting."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Record:
    """One event. `time` is when its change was made; `traceparent` hangs what follows under its processing."""

    topic: str
    key: str
    value: dict[str, Any]
    headers: Mapping[str, str]
    event_id: UUID
    time: datetime
    partition: int
    offset: int
    traceparent: str | None = None
    tracestate: str | None = None

    def message(self, kind: type[MessageT]) -> MessageT:
        """The event's message. :raises BadRecord: the value is not one."""
        try:
            return render.from_dict(self.value, kind)
        except ValueError as error:
            raise BadRecord(MALFORMED, str(error)) from error


def headers_of(raw: Raw) -> dict[str, str]:
    """The headers as text; of those with the same name the last one counts."""
    return {name: value.decode("utf-8", "replace") for name, value in raw.headers if value is not None}


def event_id_of(raw: Raw, headers: Mapping[str, str]) -> UUID:
    """The record's `ce_id`; one without gets an id by its place and content."""
    try:
        return UUID(headers["ce_id"])
    except (KeyError, ValueError):
        digest = hashlib.sha256(raw.value or b"").hexdigest()
        return uuid5(NAMESPACE_URL, f"{raw.topic}/{raw.partition}/{raw.offset}/{digest}")


def decode(raw: Raw, headers: Mapping[str, str], event_id: UUID, topic: str) -> Record:
    """The event. `topic` is the record's topic by the name its consumer knows. :raises BadRecord:"""
    if headers.get("ce_specversion", SPECVERSION) != SPECVERSION:
        raise BadRecord(UNKNOWN_VERSION, f"CloudEvents {headers['ce_specversion'][:32]}")
    major = MAJOR_OF_SCHEMA.search(headers.get("ce_dataschema", ""))
    if major is not None and int(major[1]) != MAJOR:
        raise BadRecord(UNKNOWN_VERSION, f"schema {headers['ce_dataschema'][:128]}")
    try:
        value, key = orjson.loads(raw.value or b""), (raw.key or b"").decode()
        time = _time_of(raw, headers)
    except ValueError as error:  # of JSON, of UTF-8, of the time
        raise BadRecord(MALFORMED, str(error)[:256]) from error
    if not isinstance(value, dict):
        raise BadRecord(MALFORMED, "the value is no JSON object")
    trace = headers.get("traceparent"), headers.get("tracestate")
    return Record(topic, key, value, headers, event_id, time, raw.partition, raw.offset, *trace)


def _time_of(raw: Raw, headers: Mapping[str, str]) -> datetime:
    text = headers.get("ce_time")
    if text is None:
        return datetime.fromtimestamp(raw.timestamp / 1000, UTC)
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
