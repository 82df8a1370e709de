"""Coupons whose time is over become EXPIRED, whether anybody asks for them or not."""

from coupon import events, messages, metrics, rules, store
from coupon.settings import CouponSettings
from infra import outbox, telemetry
from infra.lock import lock
from infra.postgres import Database
from infra.redis import Redis


class Expiry:
    """Sweeps each second in every instance. Row locks keep them apart; the Redis lock only spares double work."""

    def __init__(self, database: Database, redis: Redis, relay: outbox.Relay, settings: CouponSettings) -> None:
        self._database, self._redis, self._relay, self._settings = database, redis, relay, settings

    async def run(self) -> None:
        """Expires what is due, as many rounds as one run may have."""
        for _ in range(self._settings.expire_rounds_max):
            async with self._database.connection() as conn:
                policy_id = await store.read_due_policy(conn, await store.read_clock(conn))
            if policy_id is None or not await self._sweep(policy_id):
                return

    async def _sweep(self, policy_id: int) -> bool:
        """One round under the policy's lock. False: somebody else is at it."""
        with telemetry.root("expire coupons", {metrics.POLICY_ID: policy_id}):
            async with lock(
                self._redis, "coupon:policy", policy_id, ttl_seconds=self._settings.expire_lock_seconds
            ) as held:
                return held and await self.expire_once(policy_id) > 0

    async def expire_once(self, policy_id: int) -> int:
        """One transaction: at most `expire_rows_max` overdue coupons of the policy become EXPIRED. How many did."""
        async with self._database.transaction() as conn:
            at = await store.read_clock(conn)  # before the locks: what is due now stays due
            due = await store.lock_due_coupons(conn, policy_id, at=at, rows_max=self._settings.expire_rows_max)
            expired = [rules.expire(coupon) for coupon in due]
            if expired:
                await store.update_coupons(conn, expired)
                await outbox.add(conn, [events.coupon_entered(messages.coupon_message(each)) for each in expired], at)
        if expired:
            metrics.EXPIRED.inc(len(expired))
            self._relay.wake()
        return len(expired)
