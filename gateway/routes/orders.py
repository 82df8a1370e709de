"""Orders of a time sale."""

from pydantic import Field

from gateway.endpoint import Ask
from gateway.fields import Body, Id, Nothing, Page, Quantity, UserId
from protos.timesale.v1 import timesale_pb2 as pb


class NewOrder(Body):
    """Who buys how many units of which sale."""

    time_sale_id: Id
    user_id: UserId | None = None
    quantity: Quantity = Field(examples=[2])


def create(ask: Ask[NewOrder]) -> pb.CreateOrderRequest:
    """Buy units of a time sale."""
    return pb.CreateOrderRequest(
        **ask.command(), time_sale_id=ask.given.time_sale_id, user_id=ask.user_id, quantity=ask.given.quantity
    )


def get(ask: Ask[Nothing]) -> pb.GetOrderRequest:
    """Read an order."""
    return pb.GetOrderRequest(caller=ask.caller_message(), order_id=ask.id)


def list_of_user(ask: Ask[Page]) -> pb.GetUserOrdersRequest:
    """List a user's orders, newest first."""
    return pb.GetUserOrdersRequest(
        caller=ask.caller_message(), user_id=ask.user_id, page=ask.given.page, size=ask.given.size
    )
