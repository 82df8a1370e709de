"""A connection whose statements are measured, and have a span of their own where the request is sampled."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, SpanKind
from opentelemetry.util.types import AttributeValue
from prometheus_client import Histogram

from infra import telemetry
from infra.postgres.failure import error_type, sqlstate
from infra.postgres.query import Query, statement
from infra.telemetry import instruments, metrics, names

Pooled: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Raw: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Record: TypeAlias = asyncpg.Record
Result = TypeVar("Result")

SYSTEM = "postgresql"
NO_SPAN = nullcontext(INVALID_SPAN)  # the stock instrumentation makes them
BEGIN, COMMIT, ROLLBACK = (statement(word, name=word.lower(), summary=word) for word in ("BEGIN", "COMMIT", "ROLLBACK"))
NESTED = (
    statement("SAVEPOINT inner_block", name="savepoint", summary="SAVEPOINT"),
    statement("RELEASE SAVEPOINT inner_block", name="release", summary="RELEASE SAVEPOINT"),
    statement("ROLLBACK TO SAVEPOINT inner_block", name="rollback_to", summary="ROLLBACK TO SAVEPOINT"),
)


class Meter:
    """Attributes and histograms of each statement of one database, made once."""

    def __init__(self, database: str, *, spans: bool) -> None:
        self.namespace = f"{database}|public"
        self.spans = spans
        self._known: dict[Query, tuple[dict[str, AttributeValue], Histogram]] = {}
        self._written: dict[str, Query] = {}

    def of(self, query: Query) -> tuple[dict[str, AttributeValue], Histogram]:
        known = self._known.get(query)
        if known is None:
            known = self._known[query] = (self._attributes(query), self.histogram(query))
        return known

    def histogram(self, query: Query, code: str = "", error: str = "") -> Histogram:
        return instruments.DB_SECONDS.labels(SYSTEM, self.namespace, query.keyword, query.summary, code, error)

    def query_of(self, text: str) -> Query:
        return self._written.setdefault(text, statement(text))

    def _attributes(self, query: Query) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            names.DB_SYSTEM_NAME: SYSTEM,
            names.DB_NAMESPACE: self.namespace,
            names.DB_OPERATION_NAME: query.keyword,
            names.DB_QUERY_TEXT: query.text,
            names.QUERY: query.name,
            names.OPERATION: query.operation,
        }
        if query.collection:
            attributes[names.DB_COLLECTION_NAME] = query.collection
        return attributes


class Conn:
    """One connection, for one task at a time. Errors are the driver's own; `Database` says what leaves it as what."""

    __slots__ = ("_depth", "_meter", "_raw", "_wait_ms")

    def __init__(self, raw: Raw, meter: Meter, wait_ms: float = 0.0) -> None:
        self._raw, self._meter, self._wait_ms = raw, meter, wait_ms
        self._depth = 0

    async def fetch(self, query: Query | str, *args: Any) -> list[Record]:
        """All rows."""
        return await self._run(query, self._raw.fetch, args)

    async def fetchrow(self, query: Query | str, *args: Any) -> Record | None:
        """The first row, or None."""
        return await self._run(query, self._raw.fetchrow, args)

    async def fetchval(self, query: Query | str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return await self._run(query, self._raw.fetchval, args)

    async def execute(self, query: Query | str, *args: Any) -> str:
        """The command's tag: "UPDATE 3"."""
        return await self._run(query, self._raw.execute, args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """READ COMMITTED; a savepoint where one is open. An error rolls back and goes on."""
        begin, commit, rollback = NESTED if self._depth else (BEGIN, COMMIT, ROLLBACK)
        await self.execute(begin)
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if not self._raw.is_closed():
                await self.execute(rollback)
            raise
        self._depth -= 1
        await self.execute(commit)

    async def _run(self, query: Query | str, method: Callable[..., Awaitable[Result]], args: tuple[Any, ...]) -> Result:
        meter = self._meter
        if isinstance(query, str):
            query = meter.query_of(query)
        attributes, histogram = meter.of(query)
        with telemetry.span(query.summary, SpanKind.CLIENT, attributes) if meter.spans else NO_SPAN as span:
            started = perf_counter()
            try:
                result = await method(query.text, *args)
            except BaseException as error:
                self._failed(query, error, perf_counter() - started, span)
                raise
            metrics.observe(histogram, perf_counter() - started, span)
            if query is BEGIN:
                span.set_attribute(names.POOL_WAIT_MS, self._wait_ms)
            return result

    def _failed(self, query: Query, error: BaseException, seconds: float, span: trace.Span) -> None:
        code, kind = sqlstate(error) or "", error_type(error)
        metrics.observe(self._meter.histogram(query, code, kind), seconds, span)
        span.set_attribute(names.ERROR_TYPE, kind)
        if code:
            span.set_attribute(names.DB_RESPONSE_STATUS_CODE, code)
