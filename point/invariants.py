"""What must always be true of points; each query returns what breaks it."""

from infra.invariants import Invariant
from point.store import SQL

INVARIANTS = [
    Invariant(
        "point_balance_is_sum_of_journal",
        "a user's balance is the sum of the user's journal rows",
        SQL["invariant_balance_is_sum"],
    ),
    Invariant(
        "point_balance_is_last_snapshot",
        "a user's balance is what the last journal row says it was after it",
        SQL["invariant_balance_is_last_snapshot"],
    ),
    Invariant(
        "point_seq_without_gaps",
        "a user's n journal rows are numbered 1 to n",
        SQL["invariant_seq_without_gaps"],
    ),
    Invariant(
        "point_snapshots_chain",
        "each journal row's balance is the one before it plus its amount",
        SQL["invariant_snapshots_chain"],
    ),
    Invariant(
        "point_each_row_has_its_event",
        "each journal row of the last days has its event",
        SQL["invariant_each_row_has_its_event"],
    ),
]
