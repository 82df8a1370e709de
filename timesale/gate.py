"""The gate of the sales: a hint in Redis of how many units are left. It spares the database work, decides nothing."""

from infra.redis import Redis
from infra.view import Result, View
from timesale.rules import Sale

FAMILY = "timesale:inventory"


class Gate:
    """Reads and publishes the views `timesale:inventory:{id}`."""

    def __init__(self, redis: Redis) -> None:
        self._view = View(redis, FAMILY, operation=f"redis.EVALSHA {FAMILY}")

    async def too_few(self, sale_id: int, quantity: int) -> bool:
        """Whether the view says that fewer units are left; False when it is missing, odd, slow or away."""
        view = await self._view.read(sale_id)
        if view is not None and view.units >= quantity:
            self.count("passed")
        return view is not None and view.units < quantity

    def count(self, result: Result) -> None:
        """What came of a view that said so: refused, or overruled by the database."""
        self._view.count(result)

    def publish(self, sale: Sale) -> None:
        """Tells the view what is left after a commit. Nobody waits for it."""
        self._view.publish(sale.id, sale.stock.version, sale.stock.remaining)

    async def run(self) -> None:
        """Writes what was published; a background task of the process."""
        await self._view.run()
