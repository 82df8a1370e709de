"""What the gateway counts beside what every process counts."""

from infra.telemetry.metrics import counter

USERS_REGISTERED = counter("promo_users_registered", "Users who registered.")
RATE_LIMIT_DECISIONS = counter(
    "promo_rate_limit_decisions", "Requests a rate limit let pass or refused.", ["limit_name", "result"]
)

LIMIT_NAMES = ("default", "register", "login")
_ALLOWED = {name: RATE_LIMIT_DECISIONS.labels(name, "allowed") for name in LIMIT_NAMES}
_REFUSED = {name: RATE_LIMIT_DECISIONS.labels(name, "refused") for name in LIMIT_NAMES}


def count_rate_limit(name: str, allowed: bool) -> None:
    """One decision of the limit of this name."""
    (_ALLOWED if allowed else _REFUSED)[name].inc()
