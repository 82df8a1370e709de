"""The kinds of values a client may send, each with the sentence that says what would be right.

The sentence is the field's description in the OpenAPI document and the message of its validation error, so the two
cannot drift apart. Schemas are written in the dialect of OpenAPI 3.0.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, core_schema

Schema: TypeAlias = dict[str, Any]

MONEY_MAX = 2**53 - 1  # the largest integer every JSON reader keeps whole
ID_MAX = 2**63 - 1
QUANTITY_MAX = 10**9
EMAIL_LENGTH_MAX = 254
PAGE_MAX = 1_000_000  # a page is reached by counting past all those before it
PAGE_SIZE_MAX = 100

_ID = re.compile(r"[1-9][0-9]{0,18}\Z", re.ASCII)
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
_USER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}\Z", re.ASCII)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL_FORM = rf"{_ATOM}(?:[.]{_ATOM})*@(?:{_LABEL}[.])+[A-Za-z0-9][A-Za-z0-9-]{{0,61}}[A-Za-z0-9]"
_EMAIL = re.compile(rf"{_EMAIL_FORM}\Z", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)


def _wrong() -> PydanticCustomError:
    """The message is the field's own sentence; see `reader.py`."""
    return PydanticCustomError("wrong", "wrong")


def read_id(value: object) -> int:
    """A positive 64-bit integer from its decimal text or from a JSON number."""
    if type(value) is str and _ID.match(value) is not None:
        value = int(value)
    if type(value) is int and 1 <= value <= ID_MAX:
        return value
    raise _wrong()


def is_user_id(value: object) -> bool:
    """Whether a value is the name of a user: 1 to 64 of `[A-Za-z0-9_.:@-]`."""
    return type(value) is str and _USER_ID.match(value) is not None


def read_user_id(value: object) -> str:
    """The opaque name of a user; a whole number becomes its text."""
    text = str(value) if type(value) is int and -ID_MAX - 1 <= value <= ID_MAX else value
    if type(text) is str and is_user_id(text):
        return text
    raise _wrong()


def read_time(value: object) -> datetime:
    """An RFC 3339 moment with its offset, in UTC. A moment without an offset is nobody's moment."""
    if type(value) is not str or _TIME.match(value) is None:
        raise _wrong()
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _wrong() from None


def read_email(value: object) -> str:
    """An e-mail address in lower case, so that one mailbox is one user."""
    if type(value) is not str or len(value) > EMAIL_LENGTH_MAX or _EMAIL.match(value) is None:
        raise _wrong()
    return value.lower()


def read_number(value: object) -> int:
    """A whole number from a query's text: digits only, no sign, no leading zero."""
    if type(value) is not str or _NUMBER.match(value) is None:
        raise _wrong()
    return int(value)


def _null_or(inner: core_schema.CoreSchema, default: object) -> core_schema.CoreSchema:
    return core_schema.no_info_before_validator_function(lambda value: default if value is None else value, inner)


@dataclass(frozen=True, eq=False)
class Kind:
    """What pydantic must know of a kind of value: how it is read and how it is described."""

    core: core_schema.CoreSchema
    schema: Schema

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return self.core

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Schema:
        return dict(self.schema)


@dataclass(frozen=True)
class NullAs:
    """An explicit null means the default, as an absent field does."""

    default: object

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return _null_or(handler(source), self.default)

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Schema:
        return {**handler(core), "nullable": True}


def whole(minimum: int, maximum: int) -> Kind:
    """A JSON number without fraction or exponent, in a range."""
    return Kind(
        core_schema.int_schema(strict=True, ge=minimum, le=maximum),
        {
            "type": "integer",
            "format": "int64" if maximum > 2**31 - 1 else "int32",
            "minimum": minimum,
            "maximum": maximum,
            "description": f"a whole number from {minimum} to {maximum}",
        },
    )


def text(shortest: int, longest: int) -> Kind:
    """Text of so many characters, without NUL, which no database stores; not blank if it may not be empty."""
    pattern = r"^[^\x00]*$" if shortest == 0 else r"^[^\x00]*[^\x00\s][^\x00]*$"
    return Kind(
        core_schema.str_schema(strict=True, min_length=shortest, max_length=longest, pattern=pattern),
        {
            "type": "string",
            "minLength": shortest,
            "maxLength": longest,
            "pattern": pattern,
            "description": f"a text of {shortest} to {longest} characters{', not blank' if shortest else ''}",
        },
    )


def choice(*values: str, aliases: dict[str, str] | None = None) -> Kind:
    """One of a few words. `aliases` maps words that are accepted to the words they mean."""
    meaning = {value: value for value in values} | (aliases or {})

    def read(value: object) -> str:
        if type(value) is not str or value not in meaning:
            raise _wrong()
        return meaning[value]

    words = list(meaning)
    return _read_by(read, {"type": "string", "enum": words, "description": f"one of {', '.join(words)}"})


def query_number(minimum: int, maximum: int) -> Kind:
    """A whole number in a query string."""
    bounded = core_schema.int_schema(strict=True, ge=minimum, le=maximum)
    return Kind(core_schema.no_info_before_validator_function(read_number, bounded), whole(minimum, maximum).schema)


def _read_by(read: Callable[[object], object], schema: Schema) -> Kind:
    return Kind(core_schema.no_info_plain_validator_function(read), schema)


ID_SENTENCE = f"an id: a whole number from 1 to {ID_MAX}, as text or number"
USER_ID_SENTENCE = "a user id: 1 to 64 of A-Z a-z 0-9 _ . : @ - or a whole number"

_ID_SCHEMA: Schema = {
    "oneOf": [
        {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": ID_MAX},
    ],
    "description": ID_SENTENCE,
    "example": "42",
}
_USER_ID_SCHEMA: Schema = {
    "oneOf": [
        {"type": "string", "pattern": "^[A-Za-z0-9_.:@-]{1,64}$"},
        {"type": "integer", "format": "int64", "minimum": -ID_MAX - 1, "maximum": ID_MAX},
    ],
    "description": USER_ID_SENTENCE,
    "example": "u-1",
}
_TIME_SCHEMA: Schema = {
    "type": "string",
    "format": "date-time",
    "description": "an RFC 3339 time with its offset, like 2026-05-01T09:00:00Z",
    "example": "2026-05-01T09:00:00Z",
}
_EMAIL_SCHEMA: Schema = {
    "type": "string",
    "maxLength": EMAIL_LENGTH_MAX,
    "pattern": f"^{_EMAIL_FORM}$",
    "description": "an e-mail address, like ada@example.com",
    "example": "ada@example.com",
}

Id: TypeAlias = Annotated[int, _read_by(read_id, _ID_SCHEMA)]
UserId: TypeAlias = Annotated[str, _read_by(read_user_id, _USER_ID_SCHEMA)]
Email: TypeAlias = Annotated[str, _read_by(read_email, _EMAIL_SCHEMA)]
Time: TypeAlias = Annotated[datetime, _read_by(read_time, _TIME_SCHEMA)]
Money: TypeAlias = Annotated[int, whole(0, MONEY_MAX)]
Amount: TypeAlias = Annotated[int, whole(1, MONEY_MAX)]
Quantity: TypeAlias = Annotated[int, whole(1, QUANTITY_MAX)]


class Body(BaseModel):
    """What a client sends: a JSON object in camelCase without unknown fields, or a query string."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=False)


class Nothing(Body):
    """A write without fields: an empty body or an empty object."""


class Page(Body):
    """Which part of a list: `page` counts from 0."""

    page: Annotated[int, query_number(0, PAGE_MAX)] = 0
    size: Annotated[int, query_number(1, PAGE_SIZE_MAX)] = 10
