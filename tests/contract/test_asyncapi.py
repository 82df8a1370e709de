"""The AsyncAPI document says what the records are."""

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with check-jsonschema, without stubs
import orjson
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from infra import render
from infra.local import asyncapi
from infra.local.platform import TOPICS, topic_partitions

DOCUMENT = asyncapi.document()
MESSAGES = {name: message for file in asyncapi.FILES for name, message in file.message_types_by_name.items()}


def filled(message: Message, *, optional: bool) -> Message:
    """The message with something in each field, in the optional ones only if asked."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and not optional:
            continue
        if field.message_type is not None:
            part = getattr(message, field.name)
            part.SetInParent()
            filled(part, optional=optional)
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, "text")
        else:
            setattr(message, field.name, 1)
    return message


def validator(name: str) -> Any:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("optional", [True, False])
def test_every_event_fits_its_schema(name: str, optional: bool) -> None:
    message = filled(GetMessageClass(MESSAGES[name])(), optional=optional)
    value = orjson.loads(render.to_json(message))
    validator(name).validate(value)
    assert value.keys() == DOCUMENT["components"]["schemas"][name]["properties"].keys()
    with pytest.raises(jsonschema.ValidationError):
        validator(name).validate({**value, "id": 7})


def test_every_topic_has_a_channel_with_its_partitions() -> None:
    partitions = {name: each["bindings"]["kafka"]["partitions"] for name, each in DOCUMENT["channels"].items()}
    assert partitions == topic_partitions()


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            return [ref for key, each in part.items() for ref in ([each] if key == "$ref" else references(each))]
        return [ref for each in part for ref in references(each)] if isinstance(part, list) else []

    found = references(DOCUMENT)
    assert len(found) > len(TOPICS)
    for reference in found:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_the_committed_document_is_the_generated_one(repository: Path) -> None:
    assert (repository / "protos/events/asyncapi.yaml").read_text() == asyncapi.text()
