"""Takes secrets out of what leaves the process: log lines, span events, error reports."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MARK = "[redacted]"
DEPTH_MAX = 8
KEYS_KEPT_MAX = 2_048
TEXT_MAX = 16_384  # characters of one value

SECRET_KEY = re.compile(r"authorization|cookie|passw(or)?d|token|secret|dsn|e-?mail|api[-_]?key", re.IGNORECASE)
# Keys that only look like one: ids and counts of things named after a secret.
HARMLESS_KEY = re.compile(r"(^|[._])tokens?_(count|total|seconds)$", re.IGNORECASE)
# Each part is bounded, so that a long text costs a scan and not its square.
JWT = re.compile(r"eyJ[\w-]{5,4096}\.[\w-]{2,8192}\.[\w-]{0,2048}")
BEARER = re.compile(r"(?i)\bbearer\s+[^\s,;\"']{1,8192}")
URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]{1,512}@")
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,255}(?:\.[\w-]{1,63})+")


def text(value: str) -> str:
    """The text without tokens, credentials in URLs and e-mail addresses; at most TEXT_MAX characters of it."""
    value = value[:TEXT_MAX]
    if "eyJ" in value:
        value = JWT.sub(MARK, value)
    if "earer" in value or "EARER" in value:
        value = BEARER.sub(MARK, value)
    if "@" in value:
        value = EMAIL.sub(MARK, URL_CREDENTIALS.sub(f"{MARK}@", value))
    return value


def value(given: Any, depth: int = 0) -> Any:
    """The value without secrets: texts, mappings by their keys too, sequences; other objects by their text."""
    if given is None or isinstance(given, bool | int | float):
        return given
    if isinstance(given, str):
        return text(given)
    if depth >= DEPTH_MAX:
        return MARK
    if isinstance(given, Mapping):
        return mapping(given, depth + 1)
    if isinstance(given, list | tuple | set | frozenset):
        return [value(item, depth + 1) for item in given]
    if isinstance(given, bytes | bytearray | memoryview):
        return text(bytes(given).decode(errors="replace"))
    return text(str(given))


def mapping(given: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """The mapping without secrets: a key that names one hides its value, whatever it is."""
    clean = {}
    for key, item in given.items():
        name, hides = _key(str(key))
        clean[name] = MARK if hides else value(item, depth)
    return clean


@lru_cache(KEYS_KEPT_MAX)
def _key(key: str) -> tuple[str, bool]:
    """The key without secrets, and whether it names one: fields repeat, so they are looked at once."""
    return text(key), SECRET_KEY.search(key) is not None and HARMLESS_KEY.search(key) is None
