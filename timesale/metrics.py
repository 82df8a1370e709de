"""What the timesale service counts, and how its spans name its things."""

from collections.abc import Awaitable, Mapping
from typing import Protocol, TypeVar

from infra.errors import Refused
from infra.telemetry import metrics

# Span attributes.
PRODUCT_ID = "promo.product.id"
SALE_ID = "promo.sale.id"
ORDER_ID = "promo.order.id"

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
        counter = metrics.counter(f"promo_timesale_{verb}", help, ["result"])
        self._success = success
        self._children = {result: counter.labels(result) for result in (success, *refusals, *_ALWAYS)}

    async def counted(self, answer: Awaitable[_AnswerT]) -> _AnswerT:
        """Waits for a story's answer and counts it."""
        try:
            given = await answer
        except Refused as refusal:
            metrics.count(self._children[refusal.code.lower()])
            raise
        except Exception:
            metrics.count(self._children["error"])
            raise
        metrics.count(self._children["replayed" if given.replayed else self._success])
        return given


ORDERS = Results(
    *("order", "Orders asked for: ordered, replayed, a refusal's code or error.", "ordered"),
    *("not_active", "sold_out", "insufficient_stock", "user_limit"),
)
STOCK = metrics.gauge("promo_timesale_stock_remaining", "Units left in the sales that are on.", ["time_sale_id"])


def show_stock(units: Mapping[int, int]) -> None:
    """Shows the units left by sale id; sales that are not named are no longer on."""
    STOCK.clear()
    for sale_id, left in units.items():
        STOCK.labels(str(sale_id)).set(left)
