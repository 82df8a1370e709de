"""Reads: policies and coupons as they are now. A status is the clock's, whatever is stored."""

from coupon import rules, store
from coupon.rules import Coupon, CouponStatus, Listing
from infra.caller import Caller
from infra.errors import NotFound
from infra.postgres import Database


async def get_policy(database: Database, policy_id: int) -> Listing:
    """:raises NotFound:"""
    async with database.connection() as conn:
        listing = await store.read_listing(conn, policy_id)
    if listing is None:
        raise NotFound("Coupon policy", policy_id)
    return listing


async def list_policies(database: Database, *, page: int, size: int) -> tuple[list[Listing], int]:
    """A page from 0, newest first, and how many policies there are. :raises ValidationFailed:"""
    rules.check_page(page, size)
    async with database.connection() as conn:
        return await store.list_listings(conn, page=page, size=size)


async def get_coupon(database: Database, *, caller: Caller, coupon_id: int) -> Coupon:
    """:raises NotFound: :raises Forbidden: for another user's coupon."""
    async with database.connection() as conn:
        at = await store.read_clock(conn)
        coupon = (await store.read_coupons(conn, [coupon_id])).get(coupon_id)
    if coupon is None:
        raise NotFound("Coupon", coupon_id)
    rules.check_may_read(caller, coupon.user_id)
    return rules.seen_at(coupon, at)


async def get_user_coupons(
    database: Database, *, caller: Caller, user_id: str, status: CouponStatus | None, page: int, size: int
) -> tuple[list[Coupon], int]:
    """A page from 0, newest first, of the user's coupons in this status (None: all), and how many there are.

    :raises Forbidden: for another user's. :raises ValidationFailed:
    """
    rules.check_user(user_id)
    rules.check_page(page, size)
    rules.check_may_read(caller, user_id)
    async with database.connection() as conn:
        at = await store.read_clock(conn)
        coupons, total = await store.list_user_coupons(conn, user_id, status=status, at=at, page=page, size=size)
    return [rules.seen_at(coupon, at) for coupon in coupons], total
