"""Reads: products, sales and orders as they are now. A sale's status is the clock's, whatever is stored."""

from infra.caller import Caller
from infra.errors import NotFound
from infra.postgres import Database
from timesale import rules, store
from timesale.rules import Listing, Order, Product, SaleStatus


async def get_product(database: Database, product_id: int) -> Product:
    """:raises NotFound:"""
    async with database.connection() as conn:
        product = await store.read_product(conn, product_id)
    if product is None:
        raise NotFound("Product", product_id)
    return product


async def list_products(database: Database, *, page: int, size: int) -> tuple[list[Product], int]:
    """A page from 0, newest first, and how many products there are. :raises ValidationFailed:"""
    rules.check_page(page, size)
    async with database.connection() as conn:
        return await store.list_products(conn, page=page, size=size)


async def get_sale(database: Database, sale_id: int) -> Listing:
    """:raises NotFound:"""
    async with database.connection() as conn:
        listing = await store.read_listing(conn, sale_id)
    if listing is None:
        raise NotFound("Time sale", sale_id)
    return listing


async def list_sales(
    database: Database, *, status: SaleStatus | None, page: int, size: int
) -> tuple[list[Listing], int]:
    """A page from 0, newest first, of the sales in this status (None: all), and how many. :raises ValidationFailed:"""
    rules.check_page(page, size)
    async with database.connection() as conn:
        at = await store.read_clock(conn)
        return await store.list_listings(conn, status=status, at=at, page=page, size=size)


async def get_order(database: Database, *, caller: Caller, order_id: int) -> Order:
    """:raises NotFound: :raises Forbidden: for another user's order."""
    async with database.connection() as conn:
        order = await store.read_order(conn, order_id)
    if order is None:
        raise NotFound("Order", order_id)
    rules.check_may_read(caller, order.user_id)
    return order


async def get_user_orders(
    database: Database, *, caller: Caller, user_id: str, page: int, size: int
) -> tuple[list[Order], int]:
    """A page from 0, newest first, and how many orders the user has. :raises Forbidden: :raises ValidationFailed:"""
    rules.check_user(user_id)
    rules.check_page(page, size)
    rules.check_may_read(caller, user_id)
    async with database.connection() as conn:
        return await store.list_user_orders(conn, user_id, page=page, size=size)
