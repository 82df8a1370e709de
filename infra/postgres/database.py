"""One database behind a bounded pool. The process starts, and goes on, without it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor

from infra.errors import Overloaded, Unavailable
from infra.logs import get_logger
from infra.postgres.conn import Conn, Meter, Pooled, Raw
from infra.postgres.failure import Failure, classify, error_type
from infra.settings import Settings
from infra.telemetry import instruments, metrics

PING_SECONDS = 1.0
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

log = get_logger(__name__)


class Database:
    """Connections and transactions. `ready`: it answered the last ping, so `/readyz` may say yes."""

    def __init__(self, settings: Settings, *, name: str = "main", size_max: int | None = None) -> None:
        """`name` labels the pool's metrics.

        :raises ValueError: the settings name no database.
        """
        if not settings.database_url:
            raise ValueError("DATABASE_URL is not set")
        self.ready = self._closed = False
        self._settings, self._size_max = settings, size_max or settings.pool_size_max
        self._meter = Meter(urlsplit(settings.database_url).path.strip("/"), spans=settings.instrumentation == "own")
        self._pool = asyncpg.create_pool(
            min_size=0, max_size=self._size_max, max_inactive_connection_lifetime=0, init=_prepare, reset=_keep,
            **self._connect_arguments(),
        )  # fmt: skip
        self._count = {state: instruments.POOL_COUNT.labels(name, state) for state in ("idle", "used")}
        self._pending = instruments.POOL_PENDING.labels(name)
        self._timeouts = instruments.POOL_TIMEOUTS.labels(name)
        self._wait = instruments.POOL_WAIT_SECONDS.labels(name)
        self._use = instruments.POOL_USE_SECONDS.labels(name)
        self._create = instruments.POOL_CREATE_SECONDS.labels(name)
        self._up = instruments.DEPENDENCY_UP.labels("postgres")
        instruments.POOL_MAX.labels(name).set(self._size_max)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Conn]:
        """A pooled connection, for single statements.

        :raises Overloaded: none became free in time. :raises Unavailable: Postgres is not there, or was lost.
        """
        started = perf_counter()
        raw = await self._acquire()
        taken = perf_counter()
        metrics.observe(self._wait, taken - started)
        try:
            with _leaving():
                yield Conn(raw, self._meter, (taken - started) * 1000)
        finally:
            self._use.observe(perf_counter() - taken)
            await self._release(raw)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Conn]:
        """BEGIN, the body, COMMIT (READ COMMITTED); an error rolls back.

        After Unavailable nobody knows whether the COMMIT happened: the command ids tell.

        :raises Overloaded: :raises Unavailable: as for `connection`.
        """
        async with self.connection() as conn, conn.transaction():
            yield conn

    @asynccontextmanager
    async def dedicated(self, **session: str) -> AsyncIterator[Conn]:
        """A connection of its own outside the pool, for what belongs to the session; `session` are server settings.

        :raises Unavailable: Postgres is not there.
        """
        arguments = self._connect_arguments()
        arguments["server_settings"] |= session
        with _leaving():
            raw = await asyncpg.connect(**arguments)
            try:
                await _prepare(raw)
                yield Conn(raw, self._meter)
            finally:
                await _close(raw, self._settings.postgres_connect_seconds)

    async def start(self) -> None:
        """Make the pool, without connecting yet."""
        await self._pool

    async def watch(self) -> None:
        """Ping until closed: connects the pool when Postgres comes, and keeps `ready` true to what is."""
        while not self._closed:
            await self._ping()
            await asyncio.sleep(PING_SECONDS)

    async def close(self) -> None:
        """Close when all connections are back, or after the time a statement may take."""
        try:
            async with asyncio.timeout(self._settings.postgres_command_seconds):
                await self._pool.close()
        except DRIVER_ERRORS:
            self._pool.terminate()

    async def _ping(self) -> None:
        try:
            async with asyncio.timeout(self._settings.postgres_connect_seconds):
                raw = await self._acquire()
                try:
                    await raw.fetchval("SELECT 1")
                finally:
                    await self._release(raw)
        except Overloaded:
            return  # it is there, and busy
        except (Unavailable, *DRIVER_ERRORS) as error:
            if self.ready:
                log.warning("postgres.lost", error=error_type(error.__cause__ or error))
            self.ready = False
        else:
            if not self.ready:
                log.info("postgres.connected")
            self.ready = True
        self._up.set(self.ready)

    async def _acquire(self) -> Pooled:
        # A connection that must be made first may take the time of a connect; one that must be waited for may not.
        free = self._pool.get_idle_size()
        full = not free and self._pool.get_size() >= self._size_max
        limit = self._settings.pool_acquire_seconds if full else self._settings.postgres_connect_seconds
        self._pending.inc()
        started = perf_counter()
        try:
            with _leaving(but=TimeoutError):
                return await self._pool.acquire(timeout=None if free else limit)
        except TimeoutError as error:
            self._timeouts.inc()
            if self._pool.get_size() >= self._size_max:
                raise Overloaded() from error
            raise Unavailable() from error
        finally:
            self._pending.dec()
            if not free and not full:
                self._create.observe(perf_counter() - started)
            self._report()

    async def _release(self, raw: Pooled) -> None:
        try:
            await self._pool.release(raw)
        except DRIVER_ERRORS as error:  # the pool has thrown the connection away; what was asked on it is done
            log.info("postgres.connection_dropped", error=error_type(error))
        self._report()

    def _report(self) -> None:
        idle = self._pool.get_idle_size()
        self._count["idle"].set(idle)
        self._count["used"].set(self._pool.get_size() - idle)

    def _connect_arguments(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "dsn": settings.database_url,
            "timeout": settings.postgres_connect_seconds,
            "command_timeout": settings.postgres_command_seconds,
            "server_settings": {
                "application_name": settings.service_name,
                "statement_timeout": str(settings.statement_timeout_ms),
                "lock_timeout": str(settings.lock_timeout_ms),
                "idle_in_transaction_session_timeout": str(settings.idle_in_transaction_timeout_ms),
            },
        }


@asynccontextmanager
async def open(settings: Settings, *, name: str = "main", size_max: int | None = None) -> AsyncIterator[Database]:
    """The database of these settings; connects in the background, so that a process starts without Postgres."""
    if settings.instrumentation == "stock":
        AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]  # the package has no annotations there
    database = Database(settings, name=name, size_max=size_max)
    await database.start()
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(database.watch(), name=f"postgres watch {name}")
            try:
                yield database
            except Exception as error:  # carried past the task group, which would wrap it
                failure = error
            finally:
                database._closed = True  # a driver in the middle of a time-out may swallow the cancel
                watching.cancel()
    finally:
        await database.close()
    if failure is not None:
        raise failure


@contextmanager
def _leaving(*, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """What means "not there" leaves as Unavailable, with the driver's error as its cause."""
    try:
        yield
    except but:
        raise
    except DRIVER_ERRORS as error:
        if classify(error) is Failure.AGAIN:
            raise Unavailable() from error
        raise


async def _prepare(raw: Raw) -> None:
    """JSON columns are Python objects. Times are aware and in UTC by the driver's own codec."""
    await raw.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda given: orjson.dumps(given).decode(), decoder=orjson.loads
    )


async def _keep(raw: Raw) -> None:
    """No reset query between two users: nobody changes the session of a pooled connection, and it is a round trip."""


async def _close(raw: "asyncpg.Connection[asyncpg.Record]", seconds: float) -> None:
    try:
        await raw.close(timeout=seconds)
    except DRIVER_ERRORS:
        raw.terminate()
