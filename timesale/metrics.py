"""What the timesale service counts, and how its spans name its things."""

from collections.abc import Mapping

from infra.telemetry import metrics
from infra.telemetry.results import Results

# Span attributes.
PRODUCT_ID = "promo.product.id"
SALE_ID = "promo.sale.id"
ORDER_ID = "promo.order.id"

ORDERS = Results(
    "promo_timesale_order",
    "Orders asked for: ordered, replayed, a refusal's code or error.",
    "ordered",
    ("not_active", "sold_out", "insufficient_stock", "user_limit"),
)
STOCK = metrics.gauge("promo_timesale_stock_remaining", "Units left in the sales that are on.", ["time_sale_id"])


def show_stock(units: Mapping[int, int]) -> None:
    """Shows the units left by sale id; sales that are not named are no longer on."""
    STOCK.clear()
    for sale_id, left in units.items():
        STOCK.labels(str(sale_id)).set(left)
