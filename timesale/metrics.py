"""What the timesale service counts, and how its spans name its things."""

from collections.abc import Mapping

from infra.telemetry import metrics

# Span attributes.
PRODUCT_ID = "promo.product.id"
SALE_ID = "promo.sale.id"
ORDER_ID = "promo.order.id"

ORDERS = metrics.counter(
    "promo_timesale_order", "Orders asked for, by result: ordered, a refusal's code or error.", ["result"]
)
STOCK = metrics.gauge("promo_timesale_stock_remaining", "Units left in the sales that are on.", ["time_sale_id"])

_RESULTS = (
    *("ordered", "replayed", "error", "not_active", "sold_out", "insufficient_stock", "user_limit", "not_found"),
    *("forbidden", "validation_failed", "idempotency_key_reused", "unavailable", "deadline_exceeded"),
)
_ORDERS = {result: ORDERS.labels(result) for result in _RESULTS}


def count_order(result: str) -> None:
    """Counts an answer: ordered, replayed, a refusal's code in lower case, or error."""
    metrics.count(_ORDERS[result])


def show_stock(units: Mapping[int, int]) -> None:
    """Shows the units left by sale id; sales that are not named are no longer on."""
    STOCK.clear()
    for sale_id, left in units.items():
        STOCK.labels(str(sale_id)).set(left)
