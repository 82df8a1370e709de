"""The three workers as the gateway sees them: which verbs they have, and how a call of one gets there.

Deadline, calls in flight, breaker, retry and balancing are the upstream's own (`infra.rpc`). The hot verbs travel
together while calls for the same row are in flight.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.message import Message

from gateway.settings import GatewaySettings
from infra.discovery import Instances
from infra.rpc.client import Reply, Upstream
from infra.rpc.coalesce import Coalescer
from protos.coupon.v1 import coupon_pb2, coupon_pb2_grpc
from protos.point.v1 import point_pb2, point_pb2_grpc
from protos.timesale.v1 import timesale_pb2, timesale_pb2_grpc


@dataclass(frozen=True)
class Service:
    """A worker. `word` is its package and what its refusals are told by, `name` its service name."""

    word: str
    name: str
    descriptor: ServiceDescriptor
    stub: Callable[..., object]

    def resource(self, verb: str) -> Descriptor:
        """The message a verb answers with."""
        return self.descriptor.methods_by_name[verb].output_type


@dataclass(frozen=True)
class Hot:
    """A verb whose requests for one row travel together; `row` is the field that names the row."""

    name: str
    service: Service
    unary: str
    batch: str
    batch_request: Callable[[], Any]
    row: str


COUPON = Service(
    "coupon",
    "coupon-service",
    coupon_pb2.DESCRIPTOR.services_by_name["CouponService"],
    coupon_pb2_grpc.CouponServiceStub,
)
POINT = Service(
    "point",
    "point-service",
    point_pb2.DESCRIPTOR.services_by_name["PointService"],
    point_pb2_grpc.PointServiceStub,
)
TIMESALE = Service(
    "timesale",
    "timesale-service",
    timesale_pb2.DESCRIPTOR.services_by_name["TimeSaleService"],
    timesale_pb2_grpc.TimeSaleServiceStub,
)
SERVICES = (COUPON, POINT, TIMESALE)

ISSUE = Hot(
    "rpc.issue", COUPON, "IssueCoupon", "BatchIssueCoupons", coupon_pb2.BatchIssueCouponsRequest, "coupon_policy_id"
)
ORDER = Hot(
    "rpc.order", TIMESALE, "CreateOrder", "BatchCreateOrders", timesale_pb2.BatchCreateOrdersRequest, "time_sale_id"
)


class Clients:
    """Calls of all workers."""

    def __init__(self, settings: GatewaySettings, find: Callable[[str, Sequence[str]], Instances]) -> None:
        """`find` says where a service name is served, given the addresses the settings have for it."""
        addresses = {
            COUPON.word: settings.coupon_addresses,
            POINT.word: settings.point_addresses,
            TIMESALE.word: settings.timesale_addresses,
        }
        self._upstreams = {
            each.word: Upstream(each.name, settings, find(each.name, addresses[each.word]), each.stub)
            for each in SERVICES
        }
        self._hot = {hot.unary: (hot, self._coalescer(hot, settings)) for hot in (ISSUE, ORDER)}

    @property
    def upstreams(self) -> Sequence[Upstream]:
        """One for each worker."""
        return tuple(self._upstreams.values())

    @property
    def coalescers(self) -> Sequence[tuple[str, Coalescer]]:
        """What runs in the background for the hot verbs, by name."""
        return [(hot.name, coalescer) for hot, coalescer in self._hot.values()]

    async def call(self, service: Service, verb: str, request: Message, *, deadline: float) -> Reply[Any]:
        """The worker's answer to a verb; `deadline` is an instant of the loop's clock.

        :raises Refused: the worker's typed "no", or Unavailable, Overloaded, DeadlineExceeded of our own making.
        :raises UpstreamFailed: the worker broke.
        """
        known = self._hot.get(verb)
        if known is None:
            return await self._upstreams[service.word].call(verb, request, deadline=deadline)
        hot, coalescer = known
        return await coalescer.call(request, key=getattr(request, hot.row), deadline=deadline)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Itself for a block, whose end closes the channels."""
        try:
            yield self
        finally:
            for upstream in self._upstreams.values():
                await upstream.close()

    def _coalescer(self, hot: Hot, settings: GatewaySettings) -> Coalescer:
        return Coalescer(
            hot.name,
            self._upstreams[hot.service.word],
            unary=hot.unary,
            batch=hot.batch,
            batch_request=hot.batch_request,
            settings=settings,
            enabled=settings.coalesce_rpc,
        )
