"""Between protobuf messages and the JSON that others read, for REST answers and event values alike.

camelCase names; 64-bit integers called `id` or `*_id` are strings, all other numbers numbers; zeros are written, and
what is absent is null; enum prefixes are cut; times are RFC 3339 with Z.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, TypeAlias, TypeVar

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

MessageT = TypeVar("MessageT", bound=Message)
Write: TypeAlias = Callable[[Any], Any]
Read: TypeAlias = Callable[[Any, str, Any], None]  # the message, the field's name, what JSON holds

LARGE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
SMALL = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
REAL = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
TIMESTAMP = Timestamp.DESCRIPTOR.full_name
TIMES_KEPT_MAX = 1_024  # the events of a batch share theirs; a text made anew costs more than the rest of its field


def to_json(message: Message) -> bytes:
    """The message as JSON text."""
    return orjson.dumps(to_dict(message))


def to_dict(message: Message) -> dict[str, Any]:
    """The message as a JSON object."""
    rendered = {}
    for name, json_name, optional, write in _writers(message.DESCRIPTOR):
        rendered[json_name] = None if optional and not message.HasField(name) else write(getattr(message, name))
    return rendered


def from_dict(value: object, kind: type[MessageT]) -> MessageT:
    """The message that was rendered as `value`. Unknown fields are ignored; ids may be numbers too.

    :raises ValueError: a field that is not optional is missing, or one has a value of another sort or out of range.
    """
    message = kind()
    _fill(message, value)
    return message


@cache
def _writers(descriptor: Descriptor) -> tuple[tuple[str, str, bool, Write], ...]:
    return tuple(
        (field.name, field.json_name, not field.is_repeated and field.has_presence, _writer(field))
        for field in descriptor.fields
    )


def _writer(field: FieldDescriptor) -> Write:
    one = _write_one(field)
    return (lambda items: [one(each) for each in items]) if field.is_repeated else one


def _write_one(field: FieldDescriptor) -> Write:
    if field.message_type is not None:
        return _time_text if field.message_type.full_name == TIMESTAMP else to_dict
    if field.enum_type is not None:
        names = _enum_names(field.enum_type)
        return lambda number: names.get(number, number)
    if is_id(field):
        return str
    return _to_base64 if field.type == FieldDescriptor.TYPE_BYTES else _itself


def _time_text(time: Timestamp) -> str:
    return _text_of_time(time.seconds, time.nanos)


@lru_cache(TIMES_KEPT_MAX)
def _text_of_time(seconds: int, nanos: int) -> str:
    return Timestamp(seconds=seconds, nanos=nanos).ToJsonString()


def is_id(field: FieldDescriptor) -> bool:
    """Whether this field is written as a string although it is a number: ids may be larger than JSON readers count."""
    return field.cpp_type in LARGE and (field.name == "id" or field.name.endswith("_id"))


@cache
def _enum_names(enum: EnumDescriptor) -> Mapping[int, str]:
    """Of `COUPON_STATUS_USED`, a value of `CouponStatus`, remains `USED`."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def enum_names(enum: EnumDescriptor) -> Iterable[str]:
    """The words an enum's values are written as, in their order."""
    return _enum_names(enum).values()


def _itself(value: Any) -> Any:
    return value


def _to_base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")


def _fill(message: Message, value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{message.DESCRIPTOR.name}: not an object")
    for name, json_name, optional, read in _readers(message.DESCRIPTOR):
        given = value.get(json_name)
        if given is None:
            if not optional:
                raise ValueError(f"{json_name}: missing")
            continue
        try:
            read(message, name, given)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{json_name}: {error}") from error


@cache
def _readers(descriptor: Descriptor) -> tuple[tuple[str, str, bool, Read], ...]:
    return tuple(
        (field.name, field.json_name, field.is_repeated or _may_be_absent(field), _reader(field))
        for field in descriptor.fields
    )


def _may_be_absent(field: FieldDescriptor) -> bool:
    return field.has_presence and field.containing_oneof is not None


def _reader(field: FieldDescriptor) -> Read:
    if field.message_type is not None and field.is_repeated:
        return _read_messages
    if field.message_type is not None:
        return _read_time if field.message_type.full_name == TIMESTAMP else _read_message
    convert = _converter(field)
    if field.is_repeated:
        return lambda message, name, given: getattr(message, name).extend([convert(each) for each in given])
    return lambda message, name, given: setattr(message, name, convert(given))


def _read_messages(message: Message, name: str, given: Any) -> None:
    for each in given:
        _fill(getattr(message, name).add(), each)


def _read_message(message: Message, name: str, given: Any) -> None:
    part = getattr(message, name)
    part.SetInParent()
    _fill(part, given)


def _read_time(message: Message, name: str, given: Any) -> None:
    getattr(message, name).FromJsonString(given)


def _converter(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.enum_type is not None:
        numbers = {name: number for number, name in _enum_names(field.enum_type).items()}
        return lambda word: numbers[word]
    if field.cpp_type in (*LARGE, *SMALL):
        return _integer_or_text if is_id(field) else _integer
    if field.cpp_type in REAL:
        return _number
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _boolean
    return b64decode if field.type == FieldDescriptor.TYPE_BYTES else _itself


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no integer")
    return value


def _integer_or_text(value: Any) -> int:
    return int(value) if isinstance(value, str) and value.lstrip("-").isdecimal() else _integer(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value
