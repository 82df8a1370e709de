"""How often a caller may ask: GCRA buckets in Redis, shared by all gateways; each gateway's own while Redis is away."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from gateway import metrics
from gateway.clock import wall_now
from gateway.settings import GatewaySettings
from infra.errors import RateLimited
from infra.redis import Redis, RedisUnavailable

_SCRIPT = Path(__file__).parent / "lua" / "rate_limit.lua"
_FAMILY = "ratelimit"


@dataclass(frozen=True)
class Limit:
    """So many requests in a window, and as many at once: the bucket's size is the window's count."""

    name: str
    requests_max: int
    window_ms: int

    @property
    def policy(self) -> str:
        """The item of the `RateLimit-Policy` header."""
        return f'"{self.name}";q={self.requests_max};w={math.ceil(self.window_ms / 1000)}'


@dataclass(frozen=True)
class Verdict:
    """What a bucket said of one request; times in milliseconds from now."""

    limit: Limit
    allowed: bool
    left: int
    retry_ms: int
    full_ms: int

    @property
    def header(self) -> str:
        """The item of the `RateLimit` header: what is left, and in how many seconds the bucket is full again."""
        return f'"{self.limit.name}";r={self.left};t={math.ceil(self.full_ms / 1000)}'


class LocalBuckets:
    """The same arithmetic without Redis: this process alone, at most `buckets_max` of them, the oldest forgotten."""

    def __init__(self, buckets_max: int) -> None:
        self._buckets_max = buckets_max
        self._arrivals: dict[tuple[str, str], float] = {}

    def take(self, limit: Limit, subject: str, now_ms: float) -> Verdict:
        """Takes one request at `now_ms`, a moment of any steady clock."""
        step = limit.window_ms / limit.requests_max
        arrival = max(self._arrivals.pop((limit.name, subject), now_ms), now_ms)
        wait = arrival + step - now_ms - limit.window_ms
        if wait > 0.001:
            self._keep(limit, subject, arrival)
            return Verdict(limit, False, 0, math.ceil(wait), math.ceil(arrival - now_ms))
        self._keep(limit, subject, arrival + step)
        left = math.floor((limit.window_ms - (arrival + step - now_ms)) / step + 0.001)
        return Verdict(limit, True, left, 0, math.ceil(arrival + step - now_ms))

    def _keep(self, limit: Limit, subject: str, arrival: float) -> None:
        if len(self._arrivals) >= self._buckets_max:
            del self._arrivals[next(iter(self._arrivals))]
        self._arrivals[limit.name, subject] = arrival


class Limiter:
    """Takes requests from buckets. After a failure Redis is left alone for `away_seconds`, so that nobody waits."""

    def __init__(self, redis: Redis, *, timeout_seconds: float, away_seconds: float, local_buckets_max: int) -> None:
        self._redis = redis
        self._script = redis.script(_SCRIPT)
        self._timeout_seconds = timeout_seconds
        self._away_seconds = away_seconds
        self._away_until = 0.0
        self._local = LocalBuckets(local_buckets_max)

    @classmethod
    def of(cls, settings: GatewaySettings, redis: Redis) -> Self:
        """With this process's time-outs and bounds."""
        return cls(
            redis,
            timeout_seconds=settings.throttle_timeout_seconds,
            away_seconds=settings.throttle_away_seconds,
            local_buckets_max=settings.throttle_local_buckets_max,
        )

    async def take(self, limit: Limit, subject: str) -> Verdict:
        """Takes one request of `subject`: a token's subject or a client's address."""
        verdict = await self._ask_redis(limit, subject) if time.monotonic() >= self._away_until else None
        if verdict is None:
            verdict = self._local.take(limit, subject, time.monotonic() * 1000)
        metrics.count_rate_limit(limit.name, verdict.allowed)
        return verdict

    async def _ask_redis(self, limit: Limit, subject: str) -> Verdict | None:
        key = self._redis.name(f"{_FAMILY}:{limit.name}", subject)
        arguments = [limit.requests_max, limit.window_ms]
        try:
            reply = await self._script.run(_FAMILY, keys=[key], args=arguments, timeout_seconds=self._timeout_seconds)
        except RedisUnavailable:
            self._away_until = time.monotonic() + self._away_seconds
            return None
        allowed, left, retry_ms, full_ms = map(int, reply)
        return Verdict(limit, bool(allowed), left, retry_ms, full_ms)


def refuse(verdict: Verdict) -> RateLimited:
    """The refusal of a request that did not fit."""
    return RateLimited(retry_at=wall_now() + timedelta(milliseconds=verdict.retry_ms))


def headers(verdicts: Sequence[Verdict]) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and `RateLimit-Policy` of an answer, whatever became of the request."""
    if not verdicts:
        return []
    return [
        (b"ratelimit", ", ".join(verdict.header for verdict in verdicts).encode()),
        (b"ratelimit-policy", ", ".join(verdict.limit.policy for verdict in verdicts).encode()),
    ]
