"""Serves the items of a batch call, each as if it had come alone: own span, request id, deadline and outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from infra.errors import ValidationFailed
from infra.rpc import call as calls
from infra.rpc.serving import Envelope, Limits, Method, Served, serve
from infra.settings import Settings

RequestT_co = TypeVar("RequestT_co", bound=Message, covariant=True)
RequestT = TypeVar("RequestT", bound=Message)
MessageT = TypeVar("MessageT", bound=Message)


class Item(Protocol[RequestT_co]):
    """A request and what would travel in its metadata. `deadline_ms` is its time left when it was sent."""

    @property
    def request(self) -> RequestT_co: ...
    @property
    def request_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...
    @property
    def tracestate(self) -> str: ...
    @property
    def deadline_ms(self) -> int: ...


class Items:
    """The batch form of one unary method. `method` is the unary's `package.Service/Method`, under which items count."""

    def __init__(self, method: str, settings: Settings) -> None:
        self._method = Method(method, own_spans=settings.instrumentation == "own")
        self._limits = Limits.of(settings)
        self._items_max = settings.rpc_coalesce_items_max

    async def serve(
        self, items: Sequence[Item[RequestT]], handle: Callable[[RequestT], Awaitable[MessageT]]
    ) -> list[Served[MessageT]]:
        """The outcome of each, in the items' order. :raises ValidationFailed: there are too many."""
        if len(items) > self._items_max:
            raise ValidationFailed({"items": f"must be at most {self._items_max}"})
        left = calls.current().remaining() + self._limits.margin  # it is kept once, not once more by each item
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(item, left, handle)) for item in items]
        return [task.result() for task in tasks]

    async def _one(
        self, item: Item[RequestT], left: float, handle: Callable[[RequestT], Awaitable[MessageT]]
    ) -> Served[MessageT]:
        headers = {"traceparent": item.traceparent, "tracestate": item.tracestate}
        envelope = Envelope(headers, item.request_id, min(item.deadline_ms / 1000, left))
        return await serve(self._method, item.request, envelope, self._limits, handle, item.request)
