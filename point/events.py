"""The events of the journal: which topic a row is told on, and what it says."""

from infra.events import Event
from point.messages import TYPES, timestamp
from point.rules import Claim, Transaction, TransactionType
from protos.events.v1 import point_events_pb2 as pb

_TOPICS: dict[TransactionType, tuple[str, type[pb.PointEarned] | type[pb.PointSpent] | type[pb.PointCanceled]]] = {
    TransactionType.EARNED: ("point.earned", pb.PointEarned),
    TransactionType.SPENT: ("point.spent", pb.PointSpent),
    TransactionType.CANCELED: ("point.canceled", pb.PointCanceled),
}


def posted(row: Transaction, claim: Claim) -> Event:
    """The row's event, keyed by its user and traced under the demand that caused it."""
    topic, message = _TOPICS[row.type]
    return Event(
        topic=topic,
        key=row.user_id,
        message=message(
            id=row.id,
            user_id=row.user_id,
            type=TYPES[row.type],
            amount=abs(row.amount),
            new_balance=row.balance_snapshot,
            balance_snapshot=row.balance_snapshot,
            description=row.description,
            created_at=timestamp(row.created_at),
            original_transaction_id=row.original_transaction_id,
        ),
        traceparent=claim.traceparent,
        tracestate=claim.tracestate,
    )
