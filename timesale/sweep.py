"""The clock's moves: a sale's stored status follows its window, and each passage is told once."""

from dataclasses import replace

from infra import outbox, postgres
from infra.errors import Unavailable
from infra.jobs import Job
from infra.lock import lock
from infra.logs import get_logger
from infra.postgres import Database
from infra.redis import Redis
from timesale import events, metrics, rules, store
from timesale.rules import Listing
from timesale.settings import TimesaleSettings

log = get_logger(__name__)


class Sweep:
    """Runs each second in every instance. The sale's row lock keeps them and the batches apart.

    The Redis lock only spares the other instances the work.
    """

    def __init__(self, database: Database, redis: Redis, relay: outbox.Relay, settings: TimesaleSettings) -> None:
        self._database, self._redis, self._relay, self._settings = database, redis, relay, settings

    def job(self) -> Job:
        """The round each second; soon again when the database was away, because events wait for it."""
        settings = self._settings
        return Job("sweep", settings.sweep_every_seconds, self.run, retry_seconds_max=settings.sweep_retry_seconds_max)

    async def run(self) -> None:
        """One round: moves what is due, and shows what is left of the sales that are on."""
        async with self._database.connection() as conn:
            at = await store.read_clock(conn)
            due = await store.read_due_sales(conn, at=at, sales_max=self._settings.sweep_sales_max)
            stock = await store.read_live_stock(conn, sales_max=self._settings.metric_live_sales_max)
        metrics.show_stock(stock)
        for sale_id in due:
            async with lock(self._redis, "timesale", sale_id, ttl_seconds=self._settings.sweep_lock_seconds) as held:
                if held:
                    await self._move_if_free(sale_id)

    async def _move_if_free(self, sale_id: int) -> None:
        try:
            await self.move(sale_id)
        except Unavailable as error:
            if not postgres.blocked(error):
                raise
            log.warning("timesale.sweep_blocked", time_sale_id=sale_id)  # the next round comes in a second

    async def move(self, sale_id: int) -> None:
        """Brings one sale's stored status up to the clock, under its row lock: a batch may have been faster."""
        async with self._database.transaction() as conn:
            sale = (await store.lock_sales(conn, [sale_id]))[sale_id]
            at = await store.read_clock(conn)
            passages = rules.passages(sale.status, rules.status_at(sale, at))
            if not passages:
                return
            product = await store.read_product(conn, sale.product_id)
            assert product is not None, "sales_product_fkey"
            await store.update_status(conn, replace(sale, status=passages[-1]))
            entered = [events.sale_entered(Listing(replace(sale, status=status), product)) for status in passages]
            await outbox.add(conn, entered, at)
        self._relay.wake()
