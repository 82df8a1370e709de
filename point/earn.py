"""Earn: give a user points. For machines and operators, not for the user."""

from infra import telemetry
from infra.caller import Command
from infra.checks import check_user
from infra.commands import Answer
from point.post import Ledger
from point.rules import Claim, TransactionType, check_amount, check_description, check_may_move


async def earn(
    ledger: Ledger, *, command: Command, user_id: str, amount: int, description: str, deadline: float
) -> Answer:
    """`amount` in points, 1 to 2^53-1. The answer is a Transaction.

    :raises Forbidden: for a user's own token. :raises ValidationFailed: for the amount, or a balance above 2^53-1.
    """
    with telemetry.with_span("point.earn", operation="point.earn"):
        check_user(user_id)
        check_amount(amount)
        check_description(description)
        check_may_move(command.caller, user_id, machine_only=True)
        return await ledger.post(
            Claim(command, TransactionType.EARNED, user_id, description, amount), deadline=deadline
        )
