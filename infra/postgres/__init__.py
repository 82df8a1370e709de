"""The one door to Postgres: connections, transactions, statements from pages of SQL, and what its errors mean."""

from infra.postgres.conn import Conn, Record
from infra.postgres.database import Database, open
from infra.postgres.failure import Failure, blocked, classify, constraint, error_type, sqlstate
from infra.postgres.query import Query, load_queries, statement

__all__ = [
    "Conn",
    "Database",
    "Failure",
    "Query",
    "Record",
    "blocked",
    "classify",
    "constraint",
    "error_type",
    "load_queries",
    "open",
    "sqlstate",
    "statement",
]
