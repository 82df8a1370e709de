"""Points: earn, use, cancel, balance, history."""

from typing import Annotated

from pydantic import Field

from gateway.endpoint import Ask
from gateway.fields import Amount, Body, Id, Nothing, Page, UserId, text
from protos.point.v1 import point_pb2 as pb


class Earning(Body):
    """Points for a user."""

    user_id: UserId
    amount: Amount = Field(examples=[100])
    description: Annotated[str, text(0, 500)] = Field(examples=["Welcome bonus"])


class Spending(Body):
    """Points of a user."""

    user_id: UserId | None = None
    amount: Amount = Field(examples=[30])
    description: Annotated[str, text(0, 500)] = Field(examples=["Order 900"])


class Undoing(Body):
    """Which transaction to undo, and why."""

    transaction_id: Id = Field(examples=["5"])
    description: Annotated[str, text(0, 500)] = Field(examples=["Order 900 was returned"])


def earn(ask: Ask[Earning]) -> pb.EarnPointsRequest:
    """Give a user points."""
    return pb.EarnPointsRequest(
        **ask.command(), user_id=ask.user_id, amount=ask.given.amount, description=ask.given.description
    )


def use(ask: Ask[Spending]) -> pb.UsePointsRequest:
    """Spend points."""
    return pb.UsePointsRequest(
        **ask.command(), user_id=ask.user_id, amount=ask.given.amount, description=ask.given.description
    )


def cancel(ask: Ask[Undoing]) -> pb.CancelPointsRequest:
    """Undo a transaction."""
    return pb.CancelPointsRequest(
        **ask.command(), transaction_id=ask.given.transaction_id, description=ask.given.description
    )


def balance(ask: Ask[Nothing]) -> pb.GetBalanceRequest:
    """Read a user's balance."""
    return pb.GetBalanceRequest(caller=ask.caller_message(), user_id=ask.user_id)


def history(ask: Ask[Page]) -> pb.GetHistoryRequest:
    """List a user's transactions, newest first."""
    return pb.GetHistoryRequest(
        caller=ask.caller_message(), user_id=ask.user_id, page=ask.given.page, size=ask.given.size
    )
