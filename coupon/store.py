"""What Postgres knows of policies and coupons. Takes a connection, never commits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from coupon.rules import (
    Claim,
    Coupon,
    CouponStatus,
    DiscountType,
    Draft,
    Grant,
    Listing,
    Owned,
    Policy,
    Terms,
    policy_status,
)
from infra.postgres import Conn, Record, load_queries

SQL = load_queries(Path(__file__).parent / "sql" / "queries.sql")

# Constraints whose violation is a refusal: the last word, should a decision above them be wrong.
TOTAL = "policies_issued_within_total"
LIMITS = ("coupons_user_limit", "coupons_policy_user_seq_key")
MADE_BEFORE = "coupons_command_key"


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """What the second statement tells of a batch: who has what, what was made before, ids for new coupons."""

    owned: dict[tuple[int, str], Owned]
    made: dict[UUID, int]  # coupon ids by command id
    ids: list[int]


async def insert_policy(conn: Conn, draft: Draft, *, command_id: UUID, at: datetime) -> Policy | None:
    """The policy, or None if this command made one before."""
    id = await conn.fetchval(
        SQL["insert_policy"],
        draft.title,
        draft.description,
        draft.total_quantity,
        draft.start_time,
        draft.end_time,
        draft.discount_type,
        draft.discount_value,
        draft.minimum_order_amount,
        draft.maximum_discount_amount,
        at,
        draft.per_user_limit,
        draft.bonus_points,
        command_id,
    )
    if id is None:
        return None
    said = {name: getattr(draft, name) for name in Draft.__dataclass_fields__}
    return Policy(Terms(id=id, created_at=at, **said), issued_quantity=0)


async def read_listing(conn: Conn, policy_id: int) -> Listing | None:
    """The policy, its status that of this moment. None if there is no such policy."""
    row = await conn.fetchrow(SQL["read_policy"], policy_id)
    return _listing(row) if row else None


async def read_made_listing(conn: Conn, command_id: UUID) -> Listing | None:
    """The policy this command made, as it is now."""
    row = await conn.fetchrow(SQL["read_made_policy"], command_id)
    return _listing(row) if row else None


async def list_listings(conn: Conn, *, page: int, size: int) -> tuple[list[Listing], int]:
    """A page of the policies, newest first, and how many there are."""
    rows = await conn.fetch(SQL["list_policies"], size, page * size)
    return [_listing(row) for row in rows], await conn.fetchval(SQL["count_policies"])


async def lock_policies(conn: Conn, policy_ids: Iterable[int]) -> dict[int, Policy]:
    """The policies, locked until the transaction ends; those that do not exist are left out."""
    rows = await conn.fetch(SQL["lock_policies"], sorted(policy_ids))
    return {row["id"]: _policy(row) for row in rows}


async def read_refusal_facts(
    conn: Conn, policy_ids: Iterable[int], command_ids: Sequence[UUID]
) -> tuple[dict[int, Policy], set[UUID], datetime | None]:
    """The policies unlocked, which commands are known, and the time; one statement. No time if no policy exists."""
    rows = await conn.fetch(SQL["read_refusal_facts"], list(policy_ids), command_ids)
    if not rows:
        return {}, set(), None
    return {row["id"]: _policy(row) for row in rows}, set(rows[0]["known"]), rows[0]["at"]


async def read_claim_facts(conn: Conn, claims: Sequence[Claim], *, ids: int) -> ClaimFacts:
    """What these claims' users have under the locked policies, and `ids` new coupon ids."""
    rows = await conn.fetch(
        SQL["read_claim_facts"],
        [claim.policy_id for claim in claims],
        [claim.user_id for claim in claims],
        [claim.command.command_id for claim in claims],
        ids,
    )
    owned, made = {}, {}
    for claim, row in zip(claims, rows, strict=True):
        if row["last_id"] is not None:
            owned[claim.policy_id, claim.user_id] = Owned(row["user_seq"], row["last_id"])
        if row["made_id"] is not None:
            made[claim.command.command_id] = row["made_id"]
    return ClaimFacts(owned, made, [row["new_id"] for row in rows[:ids]])


async def insert_coupons(conn: Conn, grants: Sequence[Grant], at: datetime) -> None:
    """Writes the coupons in their order."""
    await conn.execute(
        SQL["insert_coupons"],
        at,
        [grant.coupon.id for grant in grants],
        [grant.coupon.user_id for grant in grants],
        [grant.coupon.terms.id for grant in grants],
        [grant.coupon.user_seq for grant in grants],
        [grant.claim.command.command_id for grant in grants],
    )


async def add_issued(conn: Conn, issued: Mapping[int, int]) -> None:
    """Counts the coupons issued, by policy id."""
    await conn.execute(SQL["update_policies"], list(issued), list(issued.values()))


async def lock_coupon(conn: Conn, coupon_id: int) -> Coupon | None:
    """The coupon, locked until the transaction ends. None if there is no such coupon."""
    row = await conn.fetchrow(SQL["lock_coupon"], coupon_id)
    return _coupon(row) if row else None


async def read_due_policy(conn: Conn, at: datetime) -> int | None:
    """The policy whose coupon has been overdue longest; None if no coupon is."""
    row = await conn.fetchrow(SQL["read_due_policy"], at)
    return row["coupon_policy_id"] if row else None


async def lock_due_coupons(conn: Conn, policy_id: int, *, at: datetime, rows_max: int) -> list[Coupon]:
    """At most `rows_max` coupons of the policy that are over and that nobody else holds, locked."""
    return [_coupon(row) for row in await conn.fetch(SQL["lock_due_coupons"], policy_id, at, rows_max)]


async def update_coupons(conn: Conn, coupons: Sequence[Coupon]) -> None:
    """Writes what can change of coupons that are locked."""
    await conn.execute(
        SQL["update_coupons"],
        [coupon.id for coupon in coupons],
        [coupon.status for coupon in coupons],
        [coupon.order_id for coupon in coupons],
        [coupon.order_amount for coupon in coupons],
        [coupon.discount_amount for coupon in coupons],
        [coupon.used_at for coupon in coupons],
        [coupon.canceled_at for coupon in coupons],
        [coupon.expired_at for coupon in coupons],
    )


async def read_clock(conn: Conn) -> datetime:
    """The database's time, in a statement of its own."""
    at: datetime = await conn.fetchval(SQL["read_clock"])
    return at


async def read_coupons(conn: Conn, coupon_ids: Iterable[int]) -> dict[int, Coupon]:
    """The coupons as they are stored; those that do not exist are left out."""
    rows = await conn.fetch(SQL["read_coupons"], list(coupon_ids))
    return {row["id"]: _coupon(row) for row in rows}


async def list_user_coupons(
    conn: Conn, user_id: str, *, status: CouponStatus | None, at: datetime, page: int, size: int
) -> tuple[list[Coupon], int]:
    """A page of the user's coupons as stored (of one status at this time, if given), newest first, and how many."""
    rows = await conn.fetch(SQL["list_user_coupons"], user_id, at, status, size, page * size)
    return [_coupon(row) for row in rows], await conn.fetchval(SQL["count_user_coupons"], user_id, at, status)


def _terms(row: Record, id: int) -> Terms:
    return Terms(
        id=id,
        title=row["title"],
        description=row["description"],
        total_quantity=row["total_quantity"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        discount_type=DiscountType(row["discount_type"]),
        discount_value=row["discount_value"],
        minimum_order_amount=row["minimum_order_amount"],
        maximum_discount_amount=row["maximum_discount_amount"],
        created_at=row["created_at"],
        per_user_limit=row["per_user_limit"],
        bonus_points=row["bonus_points"],
    )


def _policy(row: Record) -> Policy:
    return Policy(_terms(row, row["id"]), row["issued_quantity"])


def _listing(row: Record) -> Listing:
    policy = _policy(row)
    return Listing(policy, policy_status(policy, row["at"]))


def _coupon(row: Record) -> Coupon:
    return Coupon(
        id=row["id"],
        user_id=row["user_id"],
        status=CouponStatus(row["status"]),
        expiration_time=row["expiration_time"],
        issued_at=row["issued_at"],
        user_seq=row["user_seq"],
        terms=_terms(row, row["coupon_policy_id"]),
        order_id=row["order_id"],
        order_amount=row["order_amount"],
        discount_amount=row["discount_amount"],
        used_at=row["used_at"],
        canceled_at=row["canceled_at"],
        expired_at=row["expired_at"],
    )
