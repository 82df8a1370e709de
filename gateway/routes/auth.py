"""Registration, login and profile. The tokens made here are read by the gateway alone."""

from typing import Annotated

import orjson
from pydantic import Field

from gateway import metrics, store
from gateway.auth import WrongPassword
from gateway.door import Answer
from gateway.endpoint import Ask, Gateway
from gateway.fields import Body, Email, Nothing, text
from gateway.problems import EmailTaken
from gateway.store import User
from infra import postgres
from infra.errors import NotFound

Password = Annotated[str, text(8, 128)]


class Registration(Body):
    """Who registers."""

    email: Email
    name: Annotated[str, text(2, 50)] = Field(examples=["Ada"])
    password: Password = Field(examples=["correct horse battery"])


class Credentials(Body):
    """Who logs in."""

    email: Email
    password: Annotated[str, text(1, 128)] = Field(examples=["correct horse battery"])


async def register(ask: Ask[Registration], gateway: Gateway) -> Answer:
    """Register a user and get its access token."""
    given = ask.given
    password_hash = await gateway.passwords.hash(given.password)
    try:
        async with gateway.database.transaction() as conn:
            user = await store.insert_user(conn, email=given.email, name=given.name, password_hash=password_hash)
    except Exception as error:
        if postgres.constraint(error) == store.EMAIL_KEY:
            raise EmailTaken() from None
        raise
    metrics.USERS_REGISTERED.inc()
    return _welcome(user, gateway)


async def login(ask: Ask[Credentials], gateway: Gateway) -> Answer:
    """Get an access token for an e-mail and its password."""
    async with gateway.database.connection() as conn:
        user = await store.find_user_by_email(conn, ask.given.email)
    if not await gateway.passwords.matches(ask.given.password, user.password_hash if user else None) or user is None:
        raise WrongPassword()
    return _welcome(user, gateway)


async def profile(ask: Ask[Nothing], gateway: Gateway) -> Answer:
    """Read one's own registration."""
    user_id = ask.caller.user_id
    user = None
    if user_id.isdecimal() and len(user_id) < 19:
        async with gateway.database.connection() as conn:
            user = await store.find_user(conn, int(user_id))
    if user is None:  # a token minted by an operator for a name nobody registered
        raise NotFound("User", user_id)
    return Answer(orjson.dumps(_public(user)))


def _welcome(user: User, gateway: Gateway) -> Answer:
    token = gateway.tokens.mint(str(user.id), user.role)
    return Answer(orjson.dumps({"user": _public(user), "accessToken": token}))


def _public(user: User) -> dict[str, str]:
    return {"id": str(user.id), "email": user.email, "name": user.name, "role": user.role.value}
