"""Look up: a user's balance and the journal behind it."""

from infra import telemetry
from infra.caller import Caller
from infra.checks import check_page, check_user
from infra.errors import Forbidden
from infra.postgres import Database
from point import store
from point.cache import Cache
from point.rules import Account, Transaction


async def balance(database: Database, cache: Cache, *, caller: Caller, user_id: str) -> Account:
    """The user's sum; 0 for one who never earned. It may lag behind by the cache's life when a writer lost Redis.

    :raises Forbidden: for another user. :raises ValidationFailed:
    """
    _check_may_read(caller, user_id)
    cached = await cache.read(user_id)
    if cached is not None:
        return cached
    async with database.connection() as conn:
        account = await store.read_account(conn, user_id)
    cache.publish_account(account)
    telemetry.add_span_event("cache.miss", {})
    return account


async def history(
    database: Database, *, caller: Caller, user_id: str, page: int, size: int
) -> tuple[list[Transaction], int]:
    """A page of the user's journal rows, newest first, and how many there are.

    :raises Forbidden: for another user. :raises ValidationFailed:
    """
    _check_may_read(caller, user_id)
    check_page(page, size)
    async with database.connection() as conn:
        return await store.read_history(conn, user_id, limit=size, offset=page * size)


def _check_may_read(caller: Caller, user_id: str) -> None:
    check_user(user_id)
    if not caller.may_act_for(user_id):
        raise Forbidden()
