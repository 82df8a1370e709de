"""Cancel: undo an earning or a spending by a row of the opposite sign, once."""

from infra import telemetry
from infra.caller import Command
from infra.commands import Answer
from infra.errors import NotFound
from infra.postgres import Database
from point import store
from point.post import Ledger
from point.rules import Claim, TransactionType, check_description, check_may_move


async def cancel(
    database: Database, ledger: Ledger, *, command: Command, transaction_id: int, description: str, deadline: float
) -> Answer:
    """The answer is the Transaction that undoes `transaction_id`.

    :raises AlreadyCanceled: when it is undone, or itself an undoing. :raises WouldGoNegative: when an earning was spent
    since. :raises NotFound: :raises Forbidden: for a user's own token.
    """
    with telemetry.with_span("point.cancel", operation="point.cancel"):
        check_description(description)
        async with database.connection() as conn:  # whose lane it is; a row never changes its user
            user_id = await store.read_user_of_transaction(conn, transaction_id)
        if user_id is None:
            raise NotFound("Transaction", transaction_id)
        check_may_move(command.caller, user_id, machine_only=True)
        claim = Claim(command, TransactionType.CANCELED, user_id, description, original_transaction_id=transaction_id)
        return await ledger.post(claim, deadline=deadline)
