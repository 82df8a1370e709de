"""Reads bodies, queries and paths, and says of each wrong field what would be right."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.fields import ID_SENTENCE, USER_ID_SENTENCE, Schema, read_id, read_user_id
from infra.errors import ValidationFailed

B = TypeVar("B", bound=BaseModel)

_ERRORS_MAX = 20  # an answer must not grow with the nonsense in a request
_NAME_LENGTH_MAX = 100

_PATH: Final[Mapping[str, tuple[Callable[[object], Any], str]]] = {
    "id": (read_id, ID_SENTENCE),
    "userId": (read_user_id, USER_ID_SENTENCE),
}


class Reader(Generic[B]):
    """Reads one kind of body or query string, and says of each wrong field what would be right."""

    def __init__(self, model: type[B]) -> None:
        self.model = model
        self._adapter = TypeAdapter(model)
        properties = model.model_json_schema(by_alias=True)["properties"] if model.model_fields else {}
        self._nothing = b"" if properties else b"{}"  # where nothing is wanted, an empty body says it
        self._sentences = {name: _sentence(schema) for name, schema in properties.items()}

    def body(self, raw: bytes) -> B:
        """The value of a JSON document. :raises ValidationFailed: naming the fields, or `body` when it is no JSON."""
        try:
            return self._adapter.validate_json(raw or self._nothing)
        except ValidationError as error:
            raise ValidationFailed(self._explain(error)) from None

    def query(self, raw: bytes) -> B:
        """The value of a query string, which is ignored where no parameter is known.

        :raises ValidationFailed: naming the parameters.
        """
        values: dict[str, str] = {}
        text = raw.decode("latin-1") if self._sentences else ""
        for name, value in parse_qsl(text, keep_blank_values=True):
            if name in values:
                raise ValidationFailed({name: "is given twice; give it once"})
            values[name] = value
        try:
            return self._adapter.validate_python(values)
        except ValidationError as error:
            raise ValidationFailed(self._explain(error)) from None

    def _explain(self, error: ValidationError) -> dict[str, str]:
        found = error.errors(include_url=False, include_input=False)[:_ERRORS_MAX]
        return dict(map(self._explain_one, found))

    def _explain_one(self, error: ErrorDetails) -> tuple[str, str]:
        if not error["loc"]:
            remedy = "send one JSON object" if error["type"] == "json_invalid" else "it must be a JSON object"
            return "body", f"is not valid: {error['msg']}; {remedy}"
        name = str(error["loc"][0])[:_NAME_LENGTH_MAX]
        if error["type"] == "extra_forbidden":
            known = ", ".join(self._sentences) or "none"
            return name, f"is not known here; known: {known}"
        verb = "is required:" if error["type"] == "missing" else "must be"
        return name, f"{verb} {self._sentences[name]}"


def read_path(values: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a path, `id` as an integer. :raises ValidationFailed: naming the wrong one."""
    read: dict[str, Any] = {}
    for name, value in values.items():
        reads, sentence = _PATH[name]
        try:
            read[name] = reads(value)
        except PydanticCustomError:
            raise ValidationFailed({name: f"must be {sentence}"}) from None
    return read


def _sentence(schema: Schema) -> str:
    inner = schema["anyOf"][0] if "anyOf" in schema else schema
    return str(inner["description"])
