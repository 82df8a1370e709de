"""The door of the timesale service: messages in, stories called, messages out."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from infra.errors import ValidationFailed
from infra.outbox import Relay
from infra.postgres import Database
from infra.rpc import call
from infra.rpc.items import Items
from infra.rpc.server import Context
from protos.timesale.v1 import timesale_pb2 as pb
from protos.timesale.v1.timesale_pb2_grpc import TimeSaleServiceServicer
from timesale import look_up, messages
from timesale.create_product import create_product
from timesale.create_sale import create_sale
from timesale.order import Orders
from timesale.rules import SaleStatus, SaleTerms
from timesale.settings import TimesaleSettings

SERVICE = pb.DESCRIPTOR.services_by_name["TimeSaleService"].full_name


class TimeSales(TimeSaleServiceServicer):
    """`promo.timesale.v1.TimeSaleService`."""

    def __init__(self, database: Database, orders: Orders, relay: Relay, settings: TimesaleSettings) -> None:
        self._database, self._orders, self._relay = database, orders, relay
        self._items = Items(f"{SERVICE}/CreateOrder", settings)

    async def CreateProduct(self, request: pb.CreateProductRequest, context: Context) -> pb.Product:
        answer = await create_product(
            self._database,
            command=call.command_of(request),
            name=request.name,
            price=request.price,
            description=request.description,
        )
        return call.message_of(pb.Product, answer)

    async def GetProduct(self, request: pb.GetProductRequest, context: Context) -> pb.Product:
        call.caller_of(request.caller)
        return messages.product_message(await look_up.get_product(self._database, request.product_id))

    async def ListProducts(self, request: pb.ListProductsRequest, context: Context) -> pb.ListProductsResponse:
        call.caller_of(request.caller)
        products, total = await look_up.list_products(self._database, page=request.page, size=request.size)
        return pb.ListProductsResponse(
            products=map(messages.product_message, products), total=total, page=request.page, size=request.size
        )

    async def CreateTimeSale(self, request: pb.CreateTimeSaleRequest, context: Context) -> pb.TimeSale:
        answer = await create_sale(self._database, self._relay, command=call.command_of(request), terms=_terms(request))
        return call.message_of(pb.TimeSale, answer)

    async def GetTimeSale(self, request: pb.GetTimeSaleRequest, context: Context) -> pb.TimeSale:
        call.caller_of(request.caller)
        return messages.sale_message(await look_up.get_sale(self._database, request.time_sale_id))

    async def ListTimeSales(self, request: pb.ListTimeSalesRequest, context: Context) -> pb.ListTimeSalesResponse:
        call.caller_of(request.caller)
        listings, total = await look_up.list_sales(
            self._database, status=_status(request), page=request.page, size=request.size
        )
        return pb.ListTimeSalesResponse(
            timesales=map(messages.sale_message, listings), total=total, page=request.page, size=request.size
        )

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Context) -> pb.Order:
        return await self._create_order(request)

    async def BatchCreateOrders(
        self, request: pb.BatchCreateOrdersRequest, context: Context
    ) -> pb.BatchCreateOrdersResponse:
        served = await self._items.serve(request.items, self._create_order)
        return pb.BatchCreateOrdersResponse(
            results=[
                pb.CreateOrderResult(order=each.message, status=each.status, replayed=each.replayed) for each in served
            ]
        )

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.Order:
        order = await look_up.get_order(
            self._database, caller=call.caller_of(request.caller), order_id=request.order_id
        )
        return messages.order_message(order)

    async def GetUserOrders(self, request: pb.GetUserOrdersRequest, context: Context) -> pb.GetUserOrdersResponse:
        orders, total = await look_up.get_user_orders(
            self._database,
            caller=call.caller_of(request.caller),
            user_id=request.user_id,
            page=request.page,
            size=request.size,
        )
        return pb.GetUserOrdersResponse(
            orders=map(messages.order_message, orders), total=total, page=request.page, size=request.size
        )

    async def _create_order(self, request: pb.CreateOrderRequest) -> pb.Order:
        answer = await self._orders.place(
            command=call.command_of(request),
            time_sale_id=request.time_sale_id,
            user_id=request.user_id,
            quantity=request.quantity,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Order, answer)


def _terms(request: pb.CreateTimeSaleRequest) -> SaleTerms:
    return SaleTerms(
        product_id=request.product_id,
        quantity=request.quantity,
        discount_price=request.discount_price,
        start_at=_moment("startAt", request.start_at, given=request.HasField("start_at")),
        end_at=_moment("endAt", request.end_at, given=request.HasField("end_at")),
        per_user_limit=request.per_user_limit if request.HasField("per_user_limit") else None,
        reward_points=request.reward_points,
    )


def _moment(field: str, message: Timestamp, *, given: bool) -> datetime:
    if not given:
        raise ValidationFailed({field: "is required"})
    try:
        return messages.moment(message)
    except ValueError:
        raise ValidationFailed({field: "must be a time of the years 1 to 9999"}) from None


def _status(request: pb.ListTimeSalesRequest) -> SaleStatus | None:
    if not request.HasField("status"):
        return None
    status = messages.sale_status(request.status)
    if status is None:
        raise ValidationFailed({"status": f"must be one of {', '.join(SaleStatus)}"})
    return status
