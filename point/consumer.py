"""What other services' events earn a user: the bonus of a coupon, the reward of an order.

A door: it translates records into claims. The poll's transaction, the inbox and the offsets are `infra/consumer.py`'s.
"""

import hashlib
from collections.abc import Sequence
from uuid import uuid5

from infra.caller import Caller, Command, Role
from infra.consumer import AfterCommit, BadRecord, Record
from infra.errors import Refused
from infra.outbox import Relay
from infra.postgres import Conn
from point.cache import Cache
from point.post import post
from point.rules import Claim, TransactionType, reward_of
from protos.events.v1 import coupon_events_pb2, timesale_events_pb2

GROUP = "point-service"
TOPICS = ("coupon.issued", "order.created")

_SELF = Caller(GROUP, Role.SERVICE)
_FINGERPRINT_VERSION = b"\x01"


class Rewards:
    """Posts what a poll of events earns; nothing earned is an inbox row only."""

    def __init__(self, cache: Cache, relay: Relay) -> None:
        self._cache, self._relay = cache, relay

    async def handle(self, conn: Conn, records: Sequence[Record]) -> AfterCommit | None:
        """Runs in the poll's transaction; what it returns runs after the commit.

        :raises BadRecord: a record's points can never be given, so that it ends among the dead letters.
        """
        claims = [claim for claim in map(_claim, records) if claim.amount > 0]
        if not claims:
            return None
        posted = await post(conn, claims, remembered=False)
        for outcome in posted.outcomes:
            if isinstance(outcome, Refused):
                raise BadRecord("refused", outcome.code)
        await self._cache.bury(posted.rows)

        async def after_commit() -> None:
            self._cache.publish(posted.rows)
            self._relay.wake()

        return after_commit


def _claim(record: Record) -> Claim:
    if record.topic == "coupon.issued":
        coupon = record.message(coupon_events_pb2.CouponIssued)
        return _earning(record, "bonus", coupon.user_id, coupon.policy.bonus_points, f"Bonus for coupon {coupon.id}")
    order = record.message(timesale_events_pb2.OrderCreated)
    amount = reward_of(order.total_price, order.reward_points)
    return _earning(record, "reward", order.user_id, amount, f"Reward for order {order.id}")


def _earning(record: Record, reason: str, user_id: str, amount: int, description: str) -> Claim:
    """The command id is made of the event's, so that one event earns once even when the inbox has forgotten it."""
    demand = f"{user_id}\n{amount}\n{description}".encode()
    fingerprint = _FINGERPRINT_VERSION + hashlib.sha256(demand).digest()
    return Claim(
        command=Command(_SELF, uuid5(record.event_id, reason), fingerprint),
        type=TransactionType.EARNED,
        user_id=user_id,
        description=description,
        amount=amount,
        traceparent=record.traceparent,
        tracestate=record.tracestate,
    )
