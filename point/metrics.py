"""What the point service counts, and how its spans name its things."""

from infra.telemetry import metrics
from infra.telemetry.instruments import CACHE_REQUESTS

TRANSACTION_ID = "promo.transaction.id"

_TYPES = ("earned", "spent", "canceled")
_RESULTS = (
    *("done", "replayed", "error", "insufficient_points", "would_go_negative", "already_canceled", "not_found"),
    *("validation_failed", "idempotency_key_reused", "unavailable", "deadline_exceeded"),
)

TRANSACTIONS = metrics.counter(
    "promo_point_transaction",
    "Points transactions asked for, by type and result: done, replayed, a refusal's code or error.",
    ["type", "result"],
)
_CHILDREN = {(type, result): TRANSACTIONS.labels(type, result) for type in _TYPES for result in _RESULTS}

CACHE_HIT, CACHE_MISS, CACHE_ERROR = (
    CACHE_REQUESTS.labels("point:balance", result) for result in ("hit", "miss", "error")
)


def count(type: str, result: str) -> None:
    """Counts an answer: done, replayed, a refusal's code in lower case, or error."""
    metrics.count(_CHILDREN[type, result])
