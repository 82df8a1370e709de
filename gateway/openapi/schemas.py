"""Schemas of what goes in (pydantic models) and what comes out (protobuf messages, as the one renderer writes them)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel

from gateway.fields import Schema
from gateway.openapi import samples
from infra import render

_INTEGERS: Final[Mapping[int, str]] = {FieldDescriptor.TYPE_INT32: "int32", FieldDescriptor.TYPE_INT64: "int64"}
_NOT_SAID = "UNSPECIFIED"


def reference(name: str) -> Schema:
    """A pointer to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def of_model(model: type[BaseModel]) -> Schema:
    """The schema of a body or query: pydantic's, said in OpenAPI 3.0."""
    full = model.model_json_schema(by_alias=True)
    schema: Schema = {
        "type": "object",
        "description": full["description"],
        "properties": {name: _of_property(each) for name, each in full.get("properties", {}).items()},
        "additionalProperties": False,
    }
    if full.get("required"):
        schema["required"] = full["required"]
    return schema


def _of_property(schema: Schema) -> Schema:
    flat: Schema = {**schema["anyOf"][0], "nullable": True} if "anyOf" in schema else dict(schema)
    examples = schema.get("examples")
    if examples:
        flat["example"] = examples[0]
    if schema.get("default") is not None:
        flat["default"] = schema["default"]
    return {name: value for name, value in flat.items() if name not in {"title", "examples"}}


class Messages:
    """Schemas of protobuf messages, each under its own name, those inside it too."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def reference(self, descriptor: Descriptor) -> Schema:
        """A pointer to a message's schema, which is added if it is new."""
        if descriptor.name not in self.schemas:
            self.schemas[descriptor.name] = {}  # named before its parts, which may name it
            properties = {each.json_name: self._of_field(each) for each in descriptor.fields}
            self.schemas[descriptor.name] = {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "example": samples.of_message(descriptor),
            }
        return reference(descriptor.name)

    def _of_field(self, field: FieldDescriptor) -> Schema:
        schema = self._of_value(field)
        if field.is_repeated:
            return {"type": "array", "items": schema}
        if field.containing_oneof is not None:  # `optional`: absent is null
            return {"allOf": [schema], "nullable": True} if "$ref" in schema else {**schema, "nullable": True}
        return schema

    def _of_value(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            if field.message_type.full_name == "google.protobuf.Timestamp":
                return {"type": "string", "format": "date-time"}
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return {
                "type": "string",
                "enum": [each for each in render.enum_names(field.enum_type) if each != _NOT_SAID],
            }
        if field.type in _INTEGERS:
            if render.is_id(field):
                return {"type": "string", "pattern": "^[0-9]+$"}
            return {"type": "integer", "format": _INTEGERS[field.type]}
        return {"type": "boolean"} if field.type == FieldDescriptor.TYPE_BOOL else {"type": "string"}


def problem(codes: Sequence[str]) -> Schema:
    """The problem document (RFC 9457) with our own members."""
    text, number, time = {"type": "string"}, {"type": "integer"}, {"type": "string", "format": "date-time"}
    wrong = {"type": "object", "required": ["field", "message"], "properties": {"field": text, "message": text}}
    properties: dict[str, Any] = {
        "type": {"type": "string", "format": "uri-reference"},
        "title": text,
        "status": number,
        "detail": text,
        "instance": {"type": "string", "format": "uri-reference"},
        "code": {"type": "string", "enum": list(codes)},
        "traceId": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "errors": {"type": "array", "items": wrong, "description": "which fields are wrong, and what would be right"},
        "available": {**number, "description": "what there is"},
        "requested": {**number, "description": "what was asked for"},
        "missing": {**number, "description": "what lacks"},
        "retryAt": {**time, "description": "when asking again may help"},
        "couponId": {**text, "description": "the coupon that was issued before"},
        "services": {"type": "object", "additionalProperties": text, "description": "health: who is up, who is down"},
    }
    return {"type": "object", "properties": properties, "required": list(properties)[:7]}
