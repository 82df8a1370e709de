"""An `Idempotency-Key` becomes a command id, a demand becomes a fingerprint. The gateway keeps no state of either.

The worker stores both, and its answer, in the transaction of the effect.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4, uuid5

import orjson

from infra.errors import ValidationFailed

HEADER = "Idempotency-Key"
HEADER_BYTES = b"idempotency-key"

_NAMESPACE = UUID("5d0ab0f5-6e0c-5f3b-9a55-0c8b3a0f7d11")  # never changes: the ids of seven days depend on it
_VERSION = b"\x01"  # of the fingerprint's form; another version is not compared
_BARE = re.compile(r"[\x21-\x7e]{1,255}\Z", re.ASCII)


def read_key(header: str) -> str:
    """The key itself: bare or in double quotes it is the same one.

    :raises ValidationFailed: for anything but 1 to 255 visible ASCII characters.
    """
    quoted = len(header) >= 2 and header[0] == header[-1] == '"'
    key = header[1:-1] if quoted else header
    if _BARE.match(key) is None or (not quoted and key[0] == '"'):
        raise ValidationFailed({HEADER: "must be 1 to 255 visible ASCII characters, bare or in double quotes"})
    return key


def command_id(subject: str, method: str, template: str, key: str | None) -> UUID:
    """The name of a write demand: the same for the same key of the same caller on the same route.

    Without a key it is a new one. Its version tells which: 5 came of a client's key, 4 is ours.
    """
    if key is None:
        return uuid4()
    return uuid5(_NAMESPACE, orjson.dumps([subject, method, template, key]).decode())


def fingerprint(path: Mapping[str, Any], body: Mapping[str, Any]) -> bytes:
    """What is asked, whatever its form: equal demands have equal prints.

    Takes the values after validation: defaults filled, aliases resolved, ids as integers, times in UTC.
    """
    canonical = orjson.dumps({"path": path, "body": body}, option=orjson.OPT_SORT_KEYS)
    if not canonical.isascii():
        canonical = unicodedata.normalize("NFC", canonical.decode()).encode()
    return _VERSION + hashlib.sha256(canonical).digest()
