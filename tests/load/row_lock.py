"""The plain way to sell, for comparison: each request locks the sale's row in a transaction of its own.

Straight on Postgres, without HTTP, gRPC, events, keys or limits: the most it could do, behind them it would do less.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg

DATABASE = "row_lock"
CONNECT_SECONDS = 10.0
SCHEMA = """
CREATE TABLE sales (id bigint PRIMARY KEY, remaining int NOT NULL CHECK (remaining >= 0), sold int NOT NULL);
CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sale_id bigint NOT NULL REFERENCES sales,
  user_id text NOT NULL,
  queue_number int NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (sale_id, queue_number)
);
"""
LOCK = "SELECT remaining, sold FROM sales WHERE id = 1 FOR UPDATE"
INSERT = "INSERT INTO orders (sale_id, user_id, queue_number) VALUES (1, $1, $2) RETURNING id"
UPDATE = "UPDATE sales SET remaining = remaining - 1, sold = sold + 1 WHERE id = 1"


async def sell(server: str, orders: int, stock: int, connections: int) -> tuple[Counter[str], float]:
    """How so many orders by so many users ended, and in how many seconds. `server`: a URL without a database."""
    admin = await asyncpg.connect(_database(server, "postgres"), timeout=CONNECT_SECONDS)
    try:
        await admin.execute(f'DROP DATABASE IF EXISTS "{DATABASE}" WITH (FORCE)')
        await admin.execute(f'CREATE DATABASE "{DATABASE}"')
        try:
            return await _rush(_database(server, DATABASE), orders, stock, connections)
        finally:
            await admin.execute(f'DROP DATABASE "{DATABASE}" WITH (FORCE)')
    finally:
        await admin.close()


async def _rush(url: str, orders: int, stock: int, connections: int) -> tuple[Counter[str], float]:
    opened = [await asyncpg.connect(url, timeout=CONNECT_SECONDS) for _ in range(connections)]
    try:
        await opened[0].execute(SCHEMA)
        await opened[0].execute("INSERT INTO sales VALUES (1, $1, 0)", stock)
        outcomes: Counter[str] = Counter()
        users = (f"load-{number}" for number in range(1, orders + 1))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for conn in opened:
                tasks.create_task(_client(conn, users, outcomes))
        return outcomes, loop.time() - begin
    finally:
        await asyncio.gather(*(conn.close() for conn in opened))


async def _client(conn: "asyncpg.Connection[asyncpg.Record]", users: Iterator[str], outcomes: Counter[str]) -> None:
    for user in users:
        async with conn.transaction():
            row = await conn.fetchrow(LOCK)
            outcome = "SOLD_OUT"
            if row is not None and row["remaining"] > 0:
                await conn.fetchval(INSERT, user, row["sold"] + 1)
                await conn.execute(UPDATE)
                outcome = "OK"
        outcomes[outcome] += 1


def _database(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
