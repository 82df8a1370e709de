"""Reads the settings: `.env`, then the environment over it; a name with the process as prefix wins over the bare one.

A malformed value, an unknown name in `.env` and an unknown name with one of our prefixes stop the start.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from dotenv.parser import parse_stream
from pydantic import ValidationError

from infra.settings.fields import Settings

SettingsT = TypeVar("SettingsT", bound=Settings)
Printable = Mapping[str, str]

PROCESSES = ("coupon", "point", "timesale", "gateway")
PREFIXES = tuple(f"{process.upper()}_" for process in PROCESSES)
EXAMPLE = Path(__file__).parents[2] / ".env.example"
SECRET_BYTES_MIN = 32
EXIT_CODE = 2


class SettingsError(Exception):
    """A setting is malformed, unknown or refused; the text is one line for a person and holds no secret."""


def load(cls: type[SettingsT], process: str) -> SettingsT:
    """The settings of this process, or the end of it: one line on stderr and exit code 2."""
    try:
        return read(cls, process)
    except SettingsError as error:
        sys.stderr.write(f"{process}: {error}\n")
        sys.exit(EXIT_CODE)


def read(
    cls: type[SettingsT],
    process: str,
    *,
    environ: Mapping[str, str] = os.environ,
    dotenv: Path = Path(".env"),
    example: Path = EXAMPLE,
) -> SettingsT:
    """The settings of `process` (its prefix, in lower case). :raises SettingsError:"""
    written = _read_dotenv(dotenv)
    # Other processes share the file and often the shell: their names are known by the example, which lists them all.
    listed = _read_dotenv(example) if example.is_file() else None
    if listed is not None:
        known = frozenset({*names_of(cls), *listed, *map(_bare, listed)})
        _refuse_unknown(written, environ, known, dotenv)
    settings = _validate(cls, process, {**written, **environ})
    if settings.environment == "production":
        _refuse_weak_secrets(settings)
    return settings


def names_of(cls: type[Settings]) -> Iterator[str]:
    """The names of the environment variables, without prefix."""
    return (field.upper() for field in cls.model_fields)


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    with path.open(encoding="utf-8") as stream:
        for binding in parse_stream(stream):
            if binding.error or (binding.key is not None and binding.value is None):
                raise SettingsError(f"{path} line {binding.original.line}: expected NAME=value")
            if binding.key is not None and binding.value is not None:
                found[binding.key] = binding.value
    return found


def _refuse_unknown(written: Iterable[str], environ: Iterable[str], known: frozenset[str], dotenv: Path) -> None:
    for name in written:
        if not _is_known(name, known):
            raise SettingsError(f"unknown setting {name} in {dotenv}")
    for name in environ:
        if name.startswith(PREFIXES) and not _is_known(name, known):
            raise SettingsError(f"unknown setting {name} in the environment")


def _is_known(name: str, known: frozenset[str]) -> bool:
    return name in known or _bare(name) in known


def _bare(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _validate(cls: type[SettingsT], process: str, names: Mapping[str, str]) -> SettingsT:
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for field in cls.model_fields:
        for name in (f"{process}_{field}".upper(), field.upper()):
            if name in names:
                values[field], sources[field] = names[name], name
                break
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentences(cls, error, sources))) from None


def _sentences(cls: type[Settings], error: ValidationError, sources: Printable) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0]) if problem["loc"] else ""
        printable = field in cls.model_fields and cls.model_fields[field].repr
        given = f" (got {problem['input']!r})" if printable else ""
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        yield f"setting {sources.get(field, field.upper())}: {message}{given}"


def _refuse_weak_secrets(settings: Settings) -> None:
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("secret")):
            continue
        value = str(getattr(settings, name))
        if value == field.default:
            raise SettingsError(f"setting {name.upper()}: must be set in production")
        if any(len(part.strip().encode()) < SECRET_BYTES_MIN for part in value.split(",")):
            raise SettingsError(f"setting {name.upper()}: must have {SECRET_BYTES_MIN} bytes or more in production")
