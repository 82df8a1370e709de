"""How often a caller may ask: GCRA buckets in Redis, shared by all gateways; each gateway's own while Redis is away."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

from gateway import metrics
from gateway.clock import wall_now
from gateway.settings import GatewaySettings
from infra import telemetry
from infra.errors import RateLimited
from infra.redis import Redis, RedisUnavailable
from infra.telemetry import names

_SCRIPT = Path(__file__).parent / "lua" / "rate_limit.lua"
_FAMILY = "ratelimit"
_SPAN = "EVALSHA rate_limit"
_SHARED: Mapping[str, str | bool] = {names.OPERATION: "redis.EVALSHA", names.BATCH_SHARED: True}
_TOGETHER_MAX = 128  # buckets in one run of the script: Redis does nothing else meanwhile


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


@dataclass(slots=True, eq=False)
class _Group:
    """Requests whose buckets are asked for in one run of the script, by the task of the first of them."""

    asked: list[tuple[Limit, str]] = field(default_factory=list)
    verdicts: Sequence[Verdict] | None = None  # None when it has landed: Redis is away
    landed: asyncio.Event = field(default_factory=asyncio.Event)


class Limiter:
    """Takes requests from buckets.

    One script runs at a time; what comes meanwhile goes together in the next one, run by the first of them. After a
    failure Redis is left alone for `away_seconds`, so that nobody waits for it.
    """

    def __init__(self, redis: Redis, *, timeout_seconds: float, away_seconds: float, local_buckets_max: int) -> None:
        self._redis = redis
        self._script = redis.script(_SCRIPT)
        self._timeout_seconds = timeout_seconds
        self._away_seconds = away_seconds
        self._away_until = 0.0
        self._local = LocalBuckets(local_buckets_max)
        self._together_max = 1 if redis.settings.redis_cluster else _TOGETHER_MAX  # a cluster's keys have many homes
        self._gathering: _Group | None = None
        self._flying: _Group | None = None

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
        group = self._gathering
        if group is None or len(group.asked) >= self._together_max:
            group = self._gathering = _Group()
        place = len(group.asked)
        group.asked.append((limit, subject))
        if place == 0:
            await self._fly(group)
        else:
            with telemetry.span(_SPAN, attributes=_SHARED):
                await group.landed.wait()
        return None if group.verdicts is None else group.verdicts[place]

    async def _fly(self, group: _Group) -> None:
        """Runs the script for a group once the one before has landed; until then others join it."""
        before, self._flying = self._flying, group
        try:
            if before is not None and self._together_max > 1:
                await before.landed.wait()
            if self._gathering is group:
                self._gathering = None
            if time.monotonic() >= self._away_until:
                group.verdicts = await self._run(group.asked)
        finally:
            if self._gathering is group:
                self._gathering = None
            group.landed.set()

    async def _run(self, asked: Sequence[tuple[Limit, str]]) -> list[Verdict] | None:
        keys = [self._redis.name(f"{_FAMILY}:{limit.name}", subject) for limit, subject in asked]
        arguments = [number for limit, _ in asked for number in (limit.requests_max, limit.window_ms)]
        try:
            reply = await self._script.run(_FAMILY, keys=keys, args=arguments, timeout_seconds=self._timeout_seconds)
        except RedisUnavailable:
            self._away_until = time.monotonic() + self._away_seconds
            return None
        answers = zip(asked, reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True)
        return [Verdict(limit, allowed == 1, left, retry, full) for (limit, _), allowed, left, retry, full in answers]


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
