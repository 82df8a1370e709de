"""Kafka's headers and keys are any bytes; a row's are JSON. Text stays text, all else is base64."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Headers: TypeAlias = list[tuple[str, bytes]]

BASE64 = "base64"


def as_json(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, object]:
    """Headers for a JSON column; of headers with the same name the last one stays."""
    return {_clean(name): json_of(value) for name, value in headers}


def as_bytes(headers: Mapping[str, object]) -> Headers:
    """Headers for the wire, as they were before `as_json`."""
    return [(name, bytes_of(value) or b"") for name, value in headers.items()]


def json_of(value: bytes | None) -> object:
    """Text if it is UTF-8 that a JSON column takes, null, or {"base64": ...}."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {BASE64: b64encode(value).decode()}
    return {BASE64: b64encode(value).decode()} if "\0" in text else text


def bytes_of(value: object) -> bytes | None:
    """What `json_of` was given."""
    if type(value) is str:  # almost always
        return value.encode()
    if isinstance(value, Mapping):
        return b64decode(value[BASE64])
    return None if value is None else str(value).encode()


def _clean(name: str) -> str:
    return name.replace("\0", "").encode("utf-8", "replace").decode()
