"""What the coupon service counts, and how its spans name its things."""

from infra.telemetry import metrics
from infra.telemetry.results import Results

# Span attributes.
POLICY_ID = "promo.policy.id"
COUPON_ID = "promo.coupon.id"

ISSUES = Results(
    "promo_coupon_issue",
    "Coupons asked for: issued, replayed, a refusal's code or error.",
    "issued",
    ("not_active", "sold_out", "already_issued", "user_limit"),
)
USES = Results(
    "promo_coupon_use",
    "Uses asked for: used, replayed, a refusal's code or error.",
    "used",
    ("coupon_not_available", "coupon_expired", "minimum_order_amount"),
)
CANCELS = Results(
    "promo_coupon_cancel",
    "Cancellations asked for: canceled, replayed, a refusal's code or error.",
    "canceled",
    ("already_canceled", "coupon_not_used"),
)
EXPIRED = metrics.counter("promo_coupon_expired", "Coupons a sweep found overdue.")
