"""The events of sales and orders: which topic a change is told on, and what it says."""

from typing import TypeAlias

from infra.events import Event
from protos.events.v1 import timesale_events_pb2 as pb
from timesale.messages import ORDER_STATUSES, SALE_STATUSES, product_message, timestamp
from timesale.rules import Claim, Listing, Order, SaleStatus

_SaleMessage: TypeAlias = type[pb.TimeSaleCreated | pb.TimeSaleStarted | pb.TimeSaleSoldOut | pb.TimeSaleEnded]

# The status a sale enters, and how that is told. Nothing enters SCHEDULED: a sale is born there.
_PASSAGES: dict[SaleStatus, tuple[str, _SaleMessage]] = {
    SaleStatus.ACTIVE: ("timesale.started", pb.TimeSaleStarted),
    SaleStatus.SOLD_OUT: ("timesale.soldout", pb.TimeSaleSoldOut),
    SaleStatus.ENDED: ("timesale.ended", pb.TimeSaleEnded),
}


def sale_created(listing: Listing) -> Event:
    """The sale was set up."""
    return _of_sale("timesale.created", pb.TimeSaleCreated, listing, None)


def sale_entered(listing: Listing, cause: Claim | None = None) -> Event:
    """The sale entered the status it has in `listing`; traced under the claim that caused it, if one did."""
    topic, message = _PASSAGES[listing.sale.status]
    return _of_sale(topic, message, listing, cause)


def order_created(order: Order, claim: Claim) -> Event:
    """Units were sold; traced under the demand that bought them."""
    return Event(
        topic="order.created",
        key=str(order.id),
        message=pb.OrderCreated(
            id=order.id,
            order_id=order.id,
            time_sale_id=order.time_sale_id,
            user_id=order.user_id,
            quantity=order.quantity,
            status=ORDER_STATUSES[order.status],
            queue_number=order.queue_number,
            unit_price=order.unit_price,
            total_price=order.total_price,
            reward_points=order.reward_points,
            hold_id=order.hold_id,
            created_at=timestamp(order.created_at),
        ),
        traceparent=claim.traceparent,
        tracestate=claim.tracestate,
    )


def _of_sale(topic: str, message: _SaleMessage, listing: Listing, cause: Claim | None) -> Event:
    sale = listing.sale
    return Event(
        topic=topic,
        key=str(sale.id),
        message=message(
            id=sale.id,
            time_sale_id=sale.id,
            product_id=sale.product_id,
            quantity=sale.quantity,
            remaining_quantity=sale.stock.remaining,
            held_quantity=sale.stock.held,
            sold_quantity=sale.stock.sold,
            discount_price=sale.discount_price,
            start_at=timestamp(sale.start_at),
            end_at=timestamp(sale.end_at),
            status=SALE_STATUSES[sale.status],
            product=product_message(listing.product),
            created_at=timestamp(sale.created_at),
            per_user_limit=sale.per_user_limit,
            reward_points=sale.reward_points,
        ),
        traceparent=cause.traceparent if cause else None,
        tracestate=cause.tracestate if cause else None,
    )
