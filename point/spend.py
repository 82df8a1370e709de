"""Spend: take points from a user who has them."""

from infra import telemetry
from infra.caller import Command
from infra.checks import check_user
from infra.commands import Answer
from point.post import Ledger
from point.rules import Claim, TransactionType, check_amount, check_description, check_may_move


async def spend(
    ledger: Ledger, *, command: Command, user_id: str, amount: int, description: str, deadline: float
) -> Answer:
    """`amount` in points, 1 to 2^53-1; stored negative. The answer is a Transaction.

    :raises InsufficientPoints: when the balance is smaller. :raises Forbidden: :raises ValidationFailed:
    """
    with telemetry.with_span("point.spend", operation="point.spend"):
        check_user(user_id)
        check_amount(amount)
        check_description(description)
        check_may_move(command.caller, user_id, machine_only=False)
        return await ledger.post(Claim(command, TransactionType.SPENT, user_id, description, amount), deadline=deadline)
