"""What points allow, from facts alone: the balance before, the claim, the rows it names.

Amounts are points, integers from 1 to 2^53-1, the largest integer every JSON reader keeps whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from infra.caller import Caller, Command, Role
from infra.checks import between, refuse, text
from infra.errors import Forbidden, Kind, NotFound, Refused, ValidationFailed

AMOUNT_MAX = 2**53 - 1
DESCRIPTION_LENGTH_MAX = 500


class TransactionType(StrEnum):
    """What a journal row did."""

    EARNED = "EARNED"
    SPENT = "SPENT"
    CANCELED = "CANCELED"


class InsufficientPoints(Refused):
    """The balance is smaller than what is to be spent."""

    kind, code = Kind.STATE, "INSUFFICIENT_POINTS"


class WouldGoNegative(Refused):
    """The earning to undo was spent in the meantime."""

    kind, code = Kind.STATE, "WOULD_GO_NEGATIVE"


class AlreadyCanceled(Refused):
    """The transaction was undone before, or is itself an undoing."""

    kind, code = Kind.STATE, "ALREADY_CANCELED"
    final = True


@dataclass(frozen=True, slots=True)
class Account:
    """A user's current sum and the number of the last journal row (0: none)."""

    user_id: str
    balance: int = 0
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """A journal row. `amount` is signed; `balance_snapshot` is the balance after it; `seq` counts the user's rows."""

    id: int
    user_id: str
    amount: int
    type: TransactionType
    description: str
    balance_snapshot: int
    created_at: datetime
    original_transaction_id: int | None
    seq: int


@dataclass(frozen=True, slots=True)
class Original:
    """The row a cancellation names."""

    id: int
    user_id: str
    amount: int
    type: TransactionType
    reversed: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """One demand on a user's balance.

    `amount` is positive for EARNED and SPENT and unused for CANCELED, which names the row it undoes in
    `original_transaction_id`. `traceparent` and `tracestate` are the demand's own, for the event it makes.
    """

    command: Command
    type: TransactionType
    user_id: str
    description: str
    amount: int = 0
    original_transaction_id: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """What a claim adds to the journal: everything but the row's id."""

    claim: Claim
    account: Account
    amount: int


def check_description(description: str) -> None:
    """:raises ValidationFailed: for a description of more than 500 characters, or with a NUL."""
    refuse({"description": text(description, DESCRIPTION_LENGTH_MAX)})


def check_amount(amount: int) -> None:
    """:raises ValidationFailed: for an amount outside 1 to 2^53-1."""
    refuse({"amount": between(amount, 1, AMOUNT_MAX)})


def check_may_move(caller: Caller, user_id: str, *, machine_only: bool) -> None:
    """:raises Forbidden: when this caller may not move this user's points; earning and undoing are for machines."""
    if machine_only and caller.role is Role.USER:
        raise Forbidden()
    if not caller.may_act_for(user_id):
        raise Forbidden()


def reward_of(total_price: int, percent: int) -> int:
    """Points for an order: `percent` of its total price, rounded down."""
    return total_price * percent // 100


def decide(account: Account, claim: Claim, originals: Mapping[int, Original]) -> Posting | Refused:
    """The row this claim adds to `account`, or why it adds none."""
    match claim.type:
        case TransactionType.EARNED:
            return _add(account, claim, claim.amount)
        case TransactionType.SPENT:
            if account.balance < claim.amount:
                return InsufficientPoints(**_measured(account.balance, claim.amount))
            return _add(account, claim, -claim.amount)
        case TransactionType.CANCELED:
            return _undo(account, claim, originals)


def decide_all(
    accounts: Mapping[str, Account], claims: Sequence[Claim], originals: Mapping[int, Original]
) -> list[Posting | Refused]:
    """Decides the claims in their order, each on the state the earlier ones left."""
    now, undoable = dict(accounts), dict(originals)
    decisions = []
    for claim in claims:
        decision = decide(now[claim.user_id], claim, undoable)
        if isinstance(decision, Posting):
            now[claim.user_id] = decision.account
            if claim.original_transaction_id is not None:
                undone = undoable[claim.original_transaction_id]
                undoable[undone.id] = replace(undone, reversed=True)
        decisions.append(decision)
    return decisions


def _undo(account: Account, claim: Claim, originals: Mapping[int, Original]) -> Posting | Refused:
    original = originals.get(claim.original_transaction_id or 0)
    if original is None:
        return NotFound("Transaction", claim.original_transaction_id or 0)
    if original.reversed or original.type is TransactionType.CANCELED:
        return AlreadyCanceled()
    if account.balance < original.amount:
        return WouldGoNegative(**_measured(account.balance, original.amount))
    return _add(account, claim, -original.amount)


def _add(account: Account, claim: Claim, amount: int) -> Posting | Refused:
    balance = account.balance + amount
    if balance > AMOUNT_MAX:
        return ValidationFailed({"amount": f"the balance would pass {AMOUNT_MAX}; it is {account.balance}"})
    return Posting(claim, replace(account, balance=balance, last_seq=account.last_seq + 1), amount)


def _measured(available: int, requested: int) -> dict[str, int]:
    return {"available": available, "requested": requested, "missing": requested - available}
