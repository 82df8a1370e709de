"""The users who registered here: the gateway's only table."""

from dataclasses import dataclass
from pathlib import Path

from infra import postgres
from infra.caller import Role
from infra.postgres import Conn, Record

MIGRATIONS = Path(__file__).parent / "sql" / "migrations"
EMAIL_KEY = "users_email_key"  # the constraint that makes an e-mail one user's

_SQL = postgres.load_queries(Path(__file__).parent / "sql" / "queries.sql")


@dataclass(frozen=True, slots=True)
class User:
    """A registered user; `email` in lower case."""

    id: int
    email: str
    name: str
    password_hash: str
    role: Role


async def insert_user(conn: Conn, *, email: str, name: str, password_hash: str) -> User:
    """A new user with role `user`. An e-mail that is taken violates `EMAIL_KEY`."""
    row = await conn.fetchrow(_SQL["insert_user"], email, name, password_hash)
    assert row is not None  # INSERT .. RETURNING gives one row or raises
    return _user(row)


async def find_user_by_email(conn: Conn, email: str) -> User | None:
    """The user of an e-mail in lower case."""
    row = await conn.fetchrow(_SQL["find_user_by_email"], email)
    return None if row is None else _user(row)


async def find_user(conn: Conn, user_id: int) -> User | None:
    """The user of an id."""
    row = await conn.fetchrow(_SQL["find_user"], user_id)
    return None if row is None else _user(row)


def _user(row: Record) -> User:
    return User(row["id"], row["email"], row["name"], row["password_hash"], Role(row["role"]))
