"""One request's way through the gateway: token, role, rate, fields, key, whose it is; then its handler."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, get_args, get_type_hints
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import door, fields, idempotency, limits, reader
from gateway.auth import Passwords, Tokens
from gateway.clients import Clients, Service
from gateway.door import Answer, Heads
from gateway.limits import Limit, Limiter, Verdict
from gateway.problems import REPLAYED, Internal, MethodNotAllowed
from gateway.settings import GatewaySettings
from infra import render, telemetry
from infra.caller import Caller, Role
from infra.errors import DeadlineExceeded, Forbidden, Refused
from infra.logs import add_facts
from infra.postgres import Database
from infra.rpc.status import UpstreamFailed
from protos.caller.v1 import caller_pb2

B = TypeVar("B", bound=fields.Body)
Access: TypeAlias = frozenset[Role]

PUBLIC: Access = frozenset()
ADMIN: Access = frozenset({Role.ADMIN})
SERVICE: Access = frozenset({Role.SERVICE, Role.ADMIN})
USER: Access = frozenset({Role.USER, Role.ADMIN})
ANYONE: Access = frozenset(Role)  # every GET that is not marked admin, and the writes that name `service`

_ROLES = {role: caller_pb2.Role.Value(f"ROLE_{role.name}") for role in Role}
_NOBODY = Caller("", Role.USER)


class CommandFields(TypedDict):
    """What every write message begins with."""

    caller: caller_pb2.Caller
    command_id: str
    fingerprint: bytes


@dataclass(slots=True)
class Ask(Generic[B]):
    """A request that passed the door. `given` is its body or query, `id` and `user_id` what its path or body names.

    `deadline` is an instant of the loop's clock. Public routes have a caller without a name.
    """

    caller: Caller
    given: B
    deadline: float
    id: int = 0
    user_id: str = ""
    command_id: UUID | None = None
    fingerprint: bytes = b""

    def caller_message(self) -> caller_pb2.Caller:
        """The caller as workers read it."""
        return caller_pb2.Caller(user_id=self.caller.user_id, role=_ROLES[self.caller.role])

    def command(self) -> CommandFields:
        """Caller, command id and fingerprint of a write."""
        return {
            "caller": self.caller_message(),
            "command_id": str(self.command_id),
            "fingerprint": self.fingerprint,
        }


def timestamp(at: datetime) -> Timestamp:
    """A moment as messages carry it."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


@dataclass(frozen=True)
class Gateway:
    """Everything a route may use."""

    settings: GatewaySettings
    tokens: Tokens
    passwords: Passwords
    limiter: Limiter
    clients: Clients
    database: Database

    def limit(self, name: str) -> Limit:
        """The limit of this name: "default" is everybody's, the others are tighter and for one route."""
        settings = self.settings
        if name == "default":
            return Limit(name, settings.throttle_limit, settings.throttle_ttl)
        return Limit(name, settings.auth_throttle_limit, settings.auth_throttle_ttl)


Handler: TypeAlias = Callable[[Ask[Any], Gateway], Awaitable[Answer]]
Builder: TypeAlias = Callable[[Ask[Any]], Message]


@dataclass(frozen=True)
class Call:
    """A handler that is one call of a worker: `build` makes the message, the worker's answer is the resource."""

    service: Service
    verb: str
    build: Builder

    async def __call__(self, ask: Ask[Any], gateway: Gateway) -> Answer:
        try:
            reply = await gateway.clients.call(self.service, self.verb, self.build(ask), deadline=ask.deadline)
        except UpstreamFailed as error:  # told and counted where it happened
            raise Internal() from error
        with telemetry.with_span("serialize response", operation="HTTP Response Serialization"):
            body = render.to_json(reply.message)
        return Answer(body, (door.JSON, REPLAYED) if reply.replayed else (door.JSON,))


@dataclass(frozen=True)
class Route:
    """A row of the route table: who may ask what, who answers, with which status, and what is counted (`limits`)."""

    method: str
    path: str
    access: Access
    handle: Handler
    status: int = 200
    limits: tuple[str, ...] = ("default",)

    @property
    def call(self) -> Call | None:
        """The call of a worker behind the route, if it is just that."""
        return self.handle if isinstance(self.handle, Call) else None

    @property
    def function(self) -> Callable[..., Any]:
        """The function that knows the route's words; its first line of documentation is the route's summary."""
        return self.handle.build if isinstance(self.handle, Call) else self.handle

    @property
    def given(self) -> type[fields.Body]:
        """The model of the body (of the query, for GET): what the route's function says it is asked with."""
        model: type[fields.Body] = get_args(get_type_hints(self.function)["ask"])[0]
        return model

    @property
    def keyed(self) -> bool:
        """Whether it takes an `Idempotency-Key`: every write a worker does."""
        return self.call is not None and self.method in {"POST", "DELETE"}


class Endpoint:
    """A route as an ASGI application."""

    def __init__(self, route: Route, gateway: Gateway, template: str) -> None:
        self._route = route
        self._gateway = gateway
        self._template = template
        self._upstream = route.call.service.word if route.call else ""
        self._limits = [gateway.limit(name) for name in route.limits]
        self._reader = reader.Reader(route.given)
        self._keyed = route.keyed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        verdicts: list[Verdict] = []
        try:
            answer = await self._answer(scope, receive, verdicts)
        except Refused as refusal:
            answer = door.problem(refusal, scope, self._upstream)
        except door.ClientGone:
            return
        except Exception:
            await door.send_answer(send, door.problem(Internal(), scope), 500, limits.headers(verdicts))
            raise  # a bug: whoever measures the request tells of it
        await door.send_answer(send, answer, self._route.status, limits.headers(verdicts))

    async def _answer(self, scope: Scope, receive: Receive, verdicts: list[Verdict]) -> Answer:
        settings = self._gateway.settings
        deadline = asyncio.get_running_loop().time() + settings.request_deadline_seconds
        heads = door.heads(scope)
        caller = self._authenticate(heads)
        address = "" if self._route.access else door.client_address(scope, heads, settings.trusted_proxy_hops)
        await self._throttle(caller.user_id or f"ip/{address}", verdicts)
        ask: Ask[Any] = Ask(caller, await self._read(scope, heads, receive), deadline)
        self._name(ask, scope["path_params"], heads)
        if self._route.call is not None:  # a call keeps the deadline itself
            return await self._route.handle(ask, self._gateway)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._route.handle(ask, self._gateway)
        except TimeoutError:
            raise DeadlineExceeded() from None

    def _authenticate(self, heads: Heads) -> Caller:
        if not self._route.access:
            return _NOBODY
        caller = self._gateway.tokens.read(heads.get(b"authorization", b"").decode("latin-1"))
        add_facts(user_id=caller.user_id)
        if caller.role not in self._route.access:
            raise Forbidden()
        return caller

    async def _throttle(self, subject: str, verdicts: list[Verdict]) -> None:
        for limit in self._limits:
            verdict = await self._gateway.limiter.take(limit, subject)
            verdicts.append(verdict)
            if not verdict.allowed:
                raise limits.refuse(verdict)

    async def _read(self, scope: Scope, heads: Heads, receive: Receive) -> fields.Body:
        if self._route.method == "GET":
            return self._reader.query(scope["query_string"])
        settings = self._gateway.settings
        raw = await door.read_json(
            heads, receive, bytes_max=settings.http_body_bytes_max, seconds=settings.http_body_seconds
        )
        return self._reader.body(raw)

    def _name(self, ask: Ask[Any], path_params: Mapping[str, str], heads: Heads) -> None:
        """Whose and which resource is meant, and the name of the demand.

        :raises ValidationFailed: for a malformed id, user id or key. :raises Forbidden: for somebody else's user id.
        """
        path = reader.read_path(path_params)
        given = heads.get(idempotency.HEADER_BYTES) if self._keyed else None
        key = None if given is None else idempotency.read_key(given.decode("latin-1"))
        body = dict(ask.given.__dict__)
        ask.id = path.get("id", 0)
        ask.user_id = path.get("userId") or body.get("user_id") or ask.caller.user_id
        if not ask.caller.may_act_for(ask.user_id):
            raise Forbidden()
        if ask.user_id != ask.caller.user_id:
            add_facts(acts_for=ask.user_id)
        if not self._keyed:
            return
        if "user_id" in body:
            body["user_id"] = ask.user_id
        ask.fingerprint = idempotency.fingerprint(path, body)
        ask.command_id = idempotency.command_id(ask.caller.user_id, self._route.method, self._template, key)
        add_facts(command_id=ask.command_id)


class Methods:
    """The endpoints of one path, by method. HEAD is GET without its body; OPTIONS says what there is."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._endpoints = dict(endpoints)
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]
        self._allow = ", ".join([*self._endpoints, "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await door.send_answer(send, Answer(b"", [(b"allow", self._allow.encode())]), 204)
        else:
            await door.send_answer(send, door.problem(MethodNotAllowed(allow=self._allow), scope), 405)
