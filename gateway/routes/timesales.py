"""Products and time sales."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from gateway.endpoint import Ask, timestamp
from gateway.fields import Body, Id, Money, Nothing, NullAs, Page, Quantity, Time, choice, text, whole
from infra.errors import ValidationFailed
from protos.timesale.v1 import timesale_pb2 as pb


class NewProduct(Body):
    """Something to sell, and its usual price."""

    name: Annotated[str, text(1, 200)] = Field(examples=["Headphones"])
    price: Money = Field(examples=[10000])
    description: Annotated[str, text(0, 2000), NullAs("")] = Field("", examples=["Wireless, black"])


class NewTimeSale(Body):
    """A quantity of one product at a lower price, for a while."""

    product_id: Id = Field(examples=["3"])
    quantity: Quantity = Field(examples=[100])
    discount_price: Money = Field(examples=[7000])
    start_at: Time
    end_at: Time = Field(examples=["2026-05-01T10:00:00Z"])
    per_user_limit: Quantity | None = Field(None, examples=[2])
    reward_points: Annotated[int, whole(0, 100), NullAs(0)] = Field(0, examples=[5])

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.start_at >= self.end_at:
            raise ValidationFailed({"endAt": "must be after startAt"})
        return self


class TimeSalePage(Page):
    """Which time sales, and which part of the list."""

    status: Annotated[str, choice("SCHEDULED", "ACTIVE", "SOLD_OUT", "ENDED")] | None = None


def create_product(ask: Ask[NewProduct]) -> pb.CreateProductRequest:
    """Create a product."""
    body = ask.given
    return pb.CreateProductRequest(**ask.command(), name=body.name, price=body.price, description=body.description)


def get_product(ask: Ask[Nothing]) -> pb.GetProductRequest:
    """Read a product."""
    return pb.GetProductRequest(caller=ask.caller_message(), product_id=ask.id)


def list_products(ask: Ask[Page]) -> pb.ListProductsRequest:
    """List products, newest first."""
    return pb.ListProductsRequest(caller=ask.caller_message(), page=ask.given.page, size=ask.given.size)


def create_time_sale(ask: Ask[NewTimeSale]) -> pb.CreateTimeSaleRequest:
    """Create a time sale."""
    body = ask.given
    return pb.CreateTimeSaleRequest(
        **ask.command(),
        product_id=body.product_id,
        quantity=body.quantity,
        discount_price=body.discount_price,
        start_at=timestamp(body.start_at),
        end_at=timestamp(body.end_at),
        per_user_limit=body.per_user_limit,
        reward_points=body.reward_points,
    )


def get_time_sale(ask: Ask[Nothing]) -> pb.GetTimeSaleRequest:
    """Read a time sale."""
    return pb.GetTimeSaleRequest(caller=ask.caller_message(), time_sale_id=ask.id)


def list_time_sales(ask: Ask[TimeSalePage]) -> pb.ListTimeSalesRequest:
    """List time sales, newest first."""
    status = ask.given.status
    return pb.ListTimeSalesRequest(
        caller=ask.caller_message(),
        status=None if status is None else pb.TimeSaleStatus.Value(f"TIME_SALE_STATUS_{status}"),
        page=ask.given.page,
        size=ask.given.size,
    )
