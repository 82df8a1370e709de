"""The journal and its balances in Postgres. Functions take a connection and never commit."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from infra.postgres import Conn, Record, load_queries
from point.rules import Account, Original, Posting, Transaction, TransactionType

SQL = load_queries(Path(__file__).parent / "sql" / "queries.sql")


async def lock_accounts(conn: Conn, user_ids: Sequence[str], *, earners: Sequence[str]) -> None:
    """Locks these users' balances in id order; a user who earns for the first time gets a row before."""
    if earners:
        await conn.execute(SQL["add_balances"], sorted(earners))
    await conn.fetch(SQL["lock_balances"], sorted(user_ids))


async def read_accounts(conn: Conn, user_ids: Sequence[str]) -> dict[str, Account]:
    """The locked balances; a user without a row has nothing."""
    rows = await conn.fetch(SQL["read_balances"], list(user_ids))
    known = {row["user_id"]: _account(row) for row in rows}
    return {user_id: known.get(user_id, Account(user_id)) for user_id in user_ids}


async def read_account(conn: Conn, user_id: str) -> Account:
    """The balance as it stands, without a lock."""
    row = await conn.fetchrow(SQL["read_balance"], user_id)
    return Account(user_id) if row is None else _account(row)


async def read_originals(conn: Conn, ids: Sequence[int]) -> dict[int, Original]:
    """The rows that cancellations name, and whether they are undone already."""
    rows = await conn.fetch(SQL["read_originals"], list(ids)) if ids else []
    return {
        row["id"]: Original(row["id"], row["user_id"], row["amount"], TransactionType(row["type"]), row["reversed"])
        for row in rows
    }


async def read_made(conn: Conn, command_ids: Sequence[UUID]) -> dict[UUID, Transaction]:
    """Rows these commands made before."""
    rows = await conn.fetch(SQL["read_made"], list(command_ids))
    return {row["command_id"]: _transaction(row) for row in rows}


async def read_user_of_transaction(conn: Conn, transaction_id: int) -> str | None:
    """Whose row it is; that never changes, so no lock is needed."""
    user_id: str | None = await conn.fetchval(SQL["read_user_of_transaction"], transaction_id)
    return user_id


async def insert_transactions(conn: Conn, postings: Sequence[Posting], at: datetime) -> list[Transaction]:
    """Writes the rows in their order and moves the balances to the last one of each user."""
    claims = [posting.claim for posting in postings]
    rows = await conn.fetch(
        SQL["insert_transactions"],
        [claim.user_id for claim in claims],
        [posting.amount for posting in postings],
        [claim.type.value for claim in claims],
        [claim.description for claim in claims],
        [posting.account.balance for posting in postings],
        [claim.original_transaction_id for claim in claims],
        [posting.account.last_seq for posting in postings],
        at,
        [claim.command.command_id for claim in claims],
    )
    ids = {row["command_id"]: row["id"] for row in rows}
    last = {posting.account.user_id: posting.account for posting in postings}
    await conn.execute(
        SQL["update_balances"],
        list(last),
        [account.balance for account in last.values()],
        [account.last_seq for account in last.values()],
    )
    return [_made(posting, ids[posting.claim.command.command_id], at) for posting in postings]


async def read_history(conn: Conn, user_id: str, *, limit: int, offset: int) -> tuple[list[Transaction], int]:
    """A page of the user's rows, newest first, and how many there are."""
    rows = await conn.fetch(SQL["read_history"], user_id, limit, offset)
    total: int = await conn.fetchval(SQL["count_history"], user_id)
    return [_transaction(row) for row in rows], total


def _account(row: Record) -> Account:
    return Account(row["user_id"], row["balance"], row["last_seq"])


def _transaction(row: Record) -> Transaction:
    return Transaction(
        id=row["id"],
        user_id=row["user_id"],
        amount=row["amount"],
        type=TransactionType(row["type"]),
        description=row["description"],
        balance_snapshot=row["balance_snapshot"],
        created_at=row["created_at"],
        original_transaction_id=row["original_transaction_id"],
        seq=row["seq"],
    )


def _made(posting: Posting, id: int, at: datetime) -> Transaction:
    claim, account = posting.claim, posting.account
    return Transaction(
        id=id,
        user_id=claim.user_id,
        amount=posting.amount,
        type=claim.type,
        description=claim.description,
        balance_snapshot=account.balance,
        created_at=at,
        original_transaction_id=claim.original_transaction_id,
        seq=account.last_seq,
    )
