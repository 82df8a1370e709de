"""Counts the answers of a verb by what came of it."""

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from infra.errors import Refused
from infra.telemetry import metrics

_ALWAYS = (
    *("replayed", "error", "not_found", "forbidden", "validation_failed", "idempotency_key_reused"),
    *("unavailable", "deadline_exceeded"),
)


class _Answer(Protocol):
    @property
    def replayed(self) -> bool: ...


_AnswerT = TypeVar("_AnswerT", bound=_Answer)


class Results:
    """The answers of one verb by result: its word of success, replayed, a refusal's code in lower case, or error.

    All are there from the start: alerts read what has not happened yet.
    """

    def __init__(self, name: str, help: str, success: str, refusals: Sequence[str]) -> None:
        counter = metrics.counter(name, help, ["result"])
        self._success = success
        self._children = {result: counter.labels(result) for result in (success, *refusals, *_ALWAYS)}

    async def counted(self, answer: Awaitable[_AnswerT]) -> _AnswerT:
        """Waits for a story's answer and counts it."""
        try:
            given = await answer
        except Refused as refusal:
            metrics.count(self._children.get(refusal.code.lower(), self._children["error"]))
            raise
        except Exception:
            metrics.count(self._children["error"])
            raise
        metrics.count(self._children["replayed" if given.replayed else self._success])
        return given
