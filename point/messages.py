"""Journal rows and balances as the messages other processes read."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from point.rules import Account, Transaction, TransactionType
from protos.point.v1 import point_pb2 as pb

TYPES: dict[TransactionType, pb.TransactionType.ValueType] = {
    TransactionType.EARNED: pb.TRANSACTION_TYPE_EARNED,
    TransactionType.SPENT: pb.TRANSACTION_TYPE_SPENT,
    TransactionType.CANCELED: pb.TRANSACTION_TYPE_CANCELED,
}


def timestamp(at: datetime) -> Timestamp:
    """`at` with its microseconds, as protobuf writes it."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


def transaction_message(row: Transaction) -> pb.Transaction:
    """The journal row as a REST client sees it: signed amount."""
    return pb.Transaction(
        id=row.id,
        user_id=row.user_id,
        amount=row.amount,
        type=TYPES[row.type],
        description=row.description,
        balance_snapshot=row.balance_snapshot,
        created_at=timestamp(row.created_at),
        original_transaction_id=row.original_transaction_id,
    )


def balance_message(account: Account) -> pb.Balance:
    """The user's current sum."""
    return pb.Balance(user_id=account.user_id, balance=account.balance)
