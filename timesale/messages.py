"""Products, sales and orders as the messages other processes read."""

from datetime import UTC, datetime
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

from protos.timesale.v1 import timesale_pb2 as pb
from timesale.rules import Listing, Order, OrderStatus, Product, SaleStatus

SALE_STATUSES: dict[SaleStatus, "pb.TimeSaleStatus.ValueType"] = {
    SaleStatus.SCHEDULED: pb.TIME_SALE_STATUS_SCHEDULED,
    SaleStatus.ACTIVE: pb.TIME_SALE_STATUS_ACTIVE,
    SaleStatus.SOLD_OUT: pb.TIME_SALE_STATUS_SOLD_OUT,
    SaleStatus.ENDED: pb.TIME_SALE_STATUS_ENDED,
}
ORDER_STATUSES: dict[OrderStatus, "pb.OrderStatus.ValueType"] = {
    OrderStatus.PENDING: pb.ORDER_STATUS_PENDING,
    OrderStatus.COMPLETED: pb.ORDER_STATUS_COMPLETED,
    OrderStatus.FAILED: pb.ORDER_STATUS_FAILED,
    OrderStatus.CANCELED: pb.ORDER_STATUS_CANCELED,
}
_STATUS_OF = {message: status for status, message in SALE_STATUSES.items()}


@lru_cache(maxsize=64)
def timestamp(at: datetime) -> Timestamp:
    """`at` with its microseconds, as protobuf writes it; not to be changed: a batch's rows share their time."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


def moment(message: Timestamp) -> datetime:
    """The instant in UTC, to the microsecond. :raises ValueError: outside the years 1 to 9999."""
    try:
        return message.ToDatetime(UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def sale_status(message: "pb.TimeSaleStatus.ValueType") -> SaleStatus | None:
    """The status named, or None where the message names none or one unknown here."""
    return _STATUS_OF.get(message)


def product_message(product: Product) -> pb.Product:
    """The product as a REST client sees it."""
    return pb.Product(
        id=product.id,
        name=product.name,
        price=product.price,
        description=product.description,
        created_at=timestamp(product.created_at),
    )


def sale_message(listing: Listing) -> pb.TimeSale:
    """The sale with its product as a REST client sees it."""
    sale = listing.sale
    return pb.TimeSale(
        id=sale.id,
        product_id=sale.product_id,
        quantity=sale.quantity,
        remaining_quantity=sale.stock.remaining,
        discount_price=sale.discount_price,
        start_at=timestamp(sale.start_at),
        end_at=timestamp(sale.end_at),
        status=SALE_STATUSES[sale.status],
        product=product_message(listing.product),
        created_at=timestamp(sale.created_at),
        held_quantity=sale.stock.held,
        sold_quantity=sale.stock.sold,
        per_user_limit=sale.per_user_limit,
        reward_points=sale.reward_points,
    )


def order_message(order: Order) -> pb.Order:
    """The order as a REST client sees it."""
    return pb.Order(
        id=order.id,
        time_sale_id=order.time_sale_id,
        user_id=order.user_id,
        quantity=order.quantity,
        status=ORDER_STATUSES[order.status],
        queue_number=order.queue_number,
        created_at=timestamp(order.created_at),
        hold_id=order.hold_id,
        unit_price=order.unit_price,
        total_price=order.total_price,
        reward_points=order.reward_points,
    )


def order_id(body: bytes) -> int:
    """The id of a serialized Order."""
    return pb.Order.FromString(body).id
