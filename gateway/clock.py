"""The process's wall clock: what tokens and `retryAt` live by. Nothing is decided with it; the database decides."""

from datetime import UTC, datetime


def wall_now() -> datetime:
    """This moment, in UTC, as this machine believes it to be."""
    return datetime.now(UTC)  # noqa: TID251  a token's exp and a refusal's retryAt are wall time; no row depends on it
