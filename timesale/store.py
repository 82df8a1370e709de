"""What Postgres knows of products, sales, orders and buyers. Takes a connection, never commits."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from infra.errors import Refused
from infra.postgres import Conn, Record, load_queries
from timesale.rules import (
    Claim,
    Listing,
    Order,
    OrderStatus,
    Product,
    Purchase,
    Sale,
    SaleStatus,
    SaleTerms,
    SoldOut,
    Stock,
    UserLimit,
    status_at,
)

SQL = load_queries(Path(__file__).parent / "sql" / "queries.sql")

# What the database itself refuses: the last word, should a decision above it be wrong.
REFUSALS: Mapping[str, type[Refused]] = {
    "sales_remaining_not_negative": SoldOut,
    "buyers_within_limit": UserLimit,
}
MADE_BEFORE = "orders_command_key"


async def insert_product(
    conn: Conn, *, name: str, price: int, description: str, command_id: UUID, at: datetime
) -> Product | None:
    """The product, or None if this command made one before."""
    id = await conn.fetchval(SQL["insert_product"], name, price, description, at, command_id)
    return None if id is None else Product(id, name, price, description, at)


async def read_product(conn: Conn, product_id: int) -> Product | None:
    """None if there is no such product."""
    row = await conn.fetchrow(SQL["read_product"], product_id)
    return Product(**row) if row else None


async def read_made_product(conn: Conn, command_id: UUID) -> Product | None:
    """The product this command made."""
    row = await conn.fetchrow(SQL["read_made_product"], command_id)
    return Product(**row) if row else None


async def list_products(conn: Conn, *, page: int, size: int) -> tuple[list[Product], int]:
    """A page of the products, newest first, and how many there are."""
    rows = await conn.fetch(SQL["list_products"], size, page * size)
    return [Product(**row) for row in rows], await conn.fetchval(SQL["count_products"])


async def insert_sale(
    conn: Conn, terms: SaleTerms, *, status: SaleStatus, command_id: UUID, at: datetime
) -> Sale | None:
    """The sale, all its units left, or None if this command made one before."""
    id = await conn.fetchval(
        SQL["insert_sale"],
        terms.product_id,
        terms.quantity,
        terms.discount_price,
        terms.start_at,
        terms.end_at,
        status,
        at,
        terms.per_user_limit,
        terms.reward_points,
        command_id,
    )
    if id is None:
        return None
    return Sale(
        id=id,
        product_id=terms.product_id,
        quantity=terms.quantity,
        discount_price=terms.discount_price,
        start_at=terms.start_at,
        end_at=terms.end_at,
        status=status,
        created_at=at,
        per_user_limit=terms.per_user_limit,
        reward_points=terms.reward_points,
        stock=Stock(remaining=terms.quantity, held=0, sold=0, last_queue_number=0, version=0),
    )


async def lock_sales(conn: Conn, sale_ids: Iterable[int]) -> dict[int, Sale]:
    """The sales, locked until the transaction ends; those that do not exist are left out."""
    rows = await conn.fetch(SQL["lock_sales"], sorted(sale_ids))
    return {row["id"]: _sale(row) for row in rows}


async def lock_buyers(conn: Conn, claims: Sequence[Claim]) -> dict[tuple[int, str], int]:
    """Units that each claim's user has in its sale, locked; users who have none are left out."""
    pairs = sorted({(claim.time_sale_id, claim.user_id) for claim in claims})
    rows = await conn.fetch(SQL["lock_buyers"], [sale_id for sale_id, _ in pairs], [user_id for _, user_id in pairs])
    return {(row["time_sale_id"], row["user_id"]): row["units"] for row in rows}


async def read_refusal_facts(
    conn: Conn, sale_ids: Iterable[int], command_ids: Sequence[UUID]
) -> tuple[dict[int, Sale], set[UUID], datetime | None]:
    """The sales unlocked, which commands are known, and the time; one statement. No time if no sale exists."""
    rows = await conn.fetch(SQL["read_refusal_facts"], list(sale_ids), command_ids)
    if not rows:
        return {}, set(), None
    return {row["id"]: _sale(row) for row in rows}, set(rows[0]["known"]), rows[0]["at"]


async def insert_orders(conn: Conn, purchases: Sequence[Purchase], at: datetime) -> dict[UUID, Order]:
    """The orders made, by command id."""
    rows = await conn.fetch(
        SQL["insert_orders"],
        at,
        [purchase.claim.time_sale_id for purchase in purchases],
        [purchase.claim.user_id for purchase in purchases],
        [purchase.claim.quantity for purchase in purchases],
        [purchase.queue_number for purchase in purchases],
        [purchase.unit_price for purchase in purchases],
        [purchase.total_price for purchase in purchases],
        [purchase.reward_points for purchase in purchases],
        [purchase.claim.command.command_id for purchase in purchases],
    )
    ids: dict[UUID, int] = {row["command_id"]: row["id"] for row in rows}
    return {
        purchase.claim.command.command_id: Order(
            id=ids[purchase.claim.command.command_id],
            time_sale_id=purchase.claim.time_sale_id,
            user_id=purchase.claim.user_id,
            quantity=purchase.claim.quantity,
            status=OrderStatus.COMPLETED,
            queue_number=purchase.queue_number,
            created_at=at,
            hold_id=None,
            unit_price=purchase.unit_price,
            total_price=purchase.total_price,
            reward_points=purchase.reward_points,
        )
        for purchase in purchases
    }


async def add_buyers(conn: Conn, purchases: Sequence[Purchase], sales: Mapping[int, Sale]) -> None:
    """Counts what each user bought."""
    units: Counter[tuple[int, str]] = Counter()
    for purchase in purchases:
        units[purchase.claim.time_sale_id, purchase.claim.user_id] += purchase.claim.quantity
    await conn.execute(
        SQL["add_buyers"],
        [sale_id for sale_id, _ in units],
        [user_id for _, user_id in units],
        list(units.values()),
        [sales[sale_id].per_user_limit for sale_id, _ in units],
    )


async def update_sales(conn: Conn, sales: Sequence[Sale]) -> None:
    """Writes the counters and the status of sales that are locked."""
    await conn.execute(
        SQL["update_sales"],
        [sale.id for sale in sales],
        [sale.stock.remaining for sale in sales],
        [sale.stock.held for sale in sales],
        [sale.stock.sold for sale in sales],
        [sale.stock.last_queue_number for sale in sales],
        [sale.stock.version for sale in sales],
        [sale.status for sale in sales],
    )


async def read_clock(conn: Conn) -> datetime:
    """The database's time, in a statement of its own."""
    at: datetime = await conn.fetchval(SQL["read_clock"])
    return at


async def read_due_sales(conn: Conn, *, at: datetime, sales_max: int) -> list[int]:
    """Ids of at most `sales_max` sales whose stored status is behind the clock."""
    return [row["id"] for row in await conn.fetch(SQL["read_due_sales"], at, sales_max)]


async def update_status(conn: Conn, sale: Sale) -> None:
    """Writes the status of a sale that is locked."""
    await conn.execute(SQL["update_status"], sale.id, sale.status)


async def read_live_stock(conn: Conn, *, sales_max: int) -> dict[int, int]:
    """Units left in the newest `sales_max` sales that are on, by sale id."""
    rows = await conn.fetch(SQL["read_live_stock"], sales_max)
    return {row["id"]: row["remaining_quantity"] for row in rows}


async def read_listing(conn: Conn, sale_id: int) -> Listing | None:
    """The sale with its product, its status that of this moment."""
    row = await conn.fetchrow(SQL["read_listing"], sale_id)
    return _listing(row) if row else None


async def read_made_listing(conn: Conn, command_id: UUID) -> Listing | None:
    """The sale this command made, as it is now."""
    row = await conn.fetchrow(SQL["read_made_listing"], command_id)
    return _listing(row) if row else None


async def list_listings(
    conn: Conn, *, status: SaleStatus | None, at: datetime, page: int, size: int
) -> tuple[list[Listing], int]:
    """A page of the sales (of one status, if given), newest first, and how many there are."""
    rows = await conn.fetch(SQL["list_listings"], at, status, size, page * size)
    return [_listing(row) for row in rows], await conn.fetchval(SQL["count_listings"], at, status)


async def read_order(conn: Conn, order_id: int) -> Order | None:
    """None if there is no such order."""
    row = await conn.fetchrow(SQL["read_order"], order_id)
    return _order(row) if row else None


async def read_made_orders(conn: Conn, command_ids: Sequence[UUID]) -> dict[UUID, Order]:
    """The orders these commands made."""
    rows = await conn.fetch(SQL["read_made_orders"], command_ids) if command_ids else []
    orders = [dict(row) for row in rows]
    return {order.pop("command_id"): _order(order) for order in orders}


async def list_user_orders(conn: Conn, user_id: str, *, page: int, size: int) -> tuple[list[Order], int]:
    """A page of the user's orders, newest first, and how many there are."""
    rows = await conn.fetch(SQL["list_user_orders"], user_id, size, page * size)
    return [_order(row) for row in rows], await conn.fetchval(SQL["count_user_orders"], user_id)


def _sale(row: Record) -> Sale:
    return Sale(
        id=row["id"],
        product_id=row["product_id"],
        quantity=row["quantity"],
        discount_price=row["discount_price"],
        start_at=row["start_at"],
        end_at=row["end_at"],
        status=SaleStatus(row["status"]),
        created_at=row["created_at"],
        per_user_limit=row["per_user_limit"],
        reward_points=row["reward_points"],
        stock=Stock(
            remaining=row["remaining_quantity"],
            held=row["held_quantity"],
            sold=row["sold_quantity"],
            last_queue_number=row["last_queue_number"],
            version=row["version"],
        ),
    )


def _listing(row: Record) -> Listing:
    sale = _sale(row)
    return Listing(
        replace(sale, status=status_at(sale, row["at"])),
        Product(
            row["product_id"],
            row["product_name"],
            row["product_price"],
            row["product_description"],
            row["product_created_at"],
        ),
    )


def _order(row: Record | dict[str, Any]) -> Order:
    return Order(**{**row, "status": OrderStatus(row["status"])})
