"""The gate of the policies: a hint in Redis of how many coupons are left. It spares work and decides nothing."""

from coupon.rules import Policy
from infra.redis import Redis
from infra.view import Result, View


class Gate:
    """Reads and publishes the views `coupon:inventory:{id}`."""

    def __init__(self, redis: Redis) -> None:
        self._view = View(redis, "coupon:inventory")

    async def is_empty(self, policy_id: int) -> bool:
        """Whether the view says that no coupon is left; False when it is missing, odd, slow or away."""
        view = await self._view.read(policy_id)
        if view is not None and view.units > 0:
            self.count("passed")
        return view is not None and view.units < 1

    def count(self, result: Result) -> None:
        """What came of a view that said so: refused, or overruled by the database."""
        self._view.count(result)

    def publish(self, policy: Policy) -> None:
        """Tells the view what is left after a commit. Nobody waits for it."""
        self._view.publish(policy.terms.id, version=policy.issued_quantity, units=policy.remaining)

    async def run(self) -> None:
        """Writes what was published; the background task."""
        await self._view.run()
