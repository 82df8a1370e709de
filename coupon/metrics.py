"""What the coupon service counts, and how its spans name its things."""

from collections.abc import Awaitable
from typing import Protocol, TypeVar

from infra.errors import Refused
from infra.telemetry import metrics

# Span attributes.
POLICY_ID = "promo.policy.id"
COUPON_ID = "promo.coupon.id"

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

    def __init__(self, verb: str, help: str, success: str, *refusals: str) -> None:
        counter = metrics.counter(f"promo_coupon_{verb}", help, ["result"])
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


ISSUES = Results(
    *("issue", "Coupons asked for: issued, replayed, a refusal's code or error.", "issued"),
    *("not_active", "sold_out", "already_issued", "user_limit"),
)
USES = Results(
    *("use", "Uses asked for: used, replayed, a refusal's code or error.", "used"),
    *("coupon_not_available", "coupon_expired", "minimum_order_amount"),
)
CANCELS = Results(
    *("cancel", "Cancellations asked for: canceled, replayed, a refusal's code or error.", "canceled"),
    *("already_canceled", "coupon_not_used"),
)
EXPIRED = metrics.counter("promo_coupon_expired", "Coupons a sweep found overdue.")
