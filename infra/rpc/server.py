"""The gRPC server of a worker: one interceptor that checks, limits, traces, counts and logs each call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from infra import logs
from infra.errors import Overloaded, StartFailed
from infra.rpc import transport
from infra.rpc.serving import Envelope, Limits, Method, Served, serve
from infra.rpc.tokens import Verifier
from infra.settings import WorkerSettings
from infra.telemetry import instruments

EXEMPT = ("/grpc.health.v1.", "/grpc.reflection.")
REPLAYED = (("idempotency-replayed", "true"),)
BIND_POLL_SECONDS = 0.2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Message, Context], Awaitable[Message]]

log = logs.get_logger(__name__)


class Server:
    """`servicers` adds the services to the server, `names` are their full names, for health and reflection."""

    def __init__(
        self,
        settings: WorkerSettings,
        servicers: Callable[[grpc.aio.Server], None],
        names: Sequence[str],
    ) -> None:
        self._settings = settings
        self._servicers = servicers
        self._names = names
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._port = settings.grpc_port
        self._listens = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens; the real port once it was started."""
        return self._port

    async def listening(self) -> int:
        """Wait until it listens, for those who tell others of it; its port."""
        await self._listens.wait()
        return self._port

    async def start(self) -> None:
        """Listen and serve. :raises StartFailed: the port stays taken."""
        settings = self._settings
        # A port below 61000 may be somebody's outgoing connection, which ends soon.
        until = asyncio.get_running_loop().time() + settings.bind_retry_seconds
        self._server = self._build()
        while not self._bound(self._server):
            if asyncio.get_running_loop().time() >= until:
                raise StartFailed(f"port {settings.grpc_port} on {settings.listen_host} is taken")
            await asyncio.sleep(BIND_POLL_SECONDS)
        for name in self._names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self._listens.set()
        log.info("rpc.listening", host=settings.listen_host, port=self.port, tls=bool(settings.grpc_tls_cert))

    async def drain(self) -> None:
        """Say NOT_SERVING, give others the time to notice, then finish the calls in flight within `drain_seconds`."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_notice_seconds)
        if self._server is not None:
            await self._server.stop(self._settings.drain_seconds)

    def _build(self) -> grpc.aio.Server:
        interceptors = [*transport.server_interceptors(self._settings), _Interceptor(self._settings)]
        server = grpc.aio.server(interceptors=interceptors, options=transport.server_options(self._settings))
        self._servicers(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.environment != "production":
            names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    def _bound(self, server: grpc.aio.Server) -> bool:
        address = f"{self._settings.listen_host}:{self._settings.grpc_port}"
        credentials = transport.server_credentials(self._settings)
        try:
            if credentials is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, credentials)
        except RuntimeError:  # what the library raises for a port it cannot bind
            return False
        return self._port != 0


class _Interceptor(grpc.aio.ServerInterceptor):
    """One for all: six in a row would cost more than the call itself."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._own_spans = settings.instrumentation == "own"
        self._limits = Limits.of(settings)
        self._inflight_max = settings.rpc_inflight_max
        self._inflight = 0
        self._verifier = Verifier(settings)
        self._handlers: dict[str, Handler] = {}
        instruments.RPC_INFLIGHT.set_function(lambda: self._inflight)
        instruments.RPC_INFLIGHT_MAX.set(self._inflight_max)

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method's handler within ours, made at its first call; the library calls this for each one."""
        name = handler_call_details.method
        handler = self._handlers.get(name)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:  # else the method is unknown
                handler = handler if name.startswith(EXEMPT) else self._within(name, handler)
                self._handlers[name] = handler
        return handler

    def _within(self, name: str, handler: Handler) -> Handler:
        if handler.unary_unary is None:
            raise TypeError(f"{name}: only unary methods are served")
        method = Method(name.removeprefix("/"), own_spans=self._own_spans)
        behaviour: Behaviour = cast(Behaviour, handler.unary_unary)  # the stubs know it as a plain function only
        rejected = instruments.RPC_REJECTED.labels(method.name)

        async def answer(request: Message, context: Context) -> Message:
            metadata = dict(context.invocation_metadata() or ())
            envelope = Envelope(metadata, str(metadata.get("x-request-id", "")), context.time_remaining())
            self._inflight += 1
            try:
                served = await serve(method, request, envelope, self._limits, admitted, request, context, metadata)
            finally:
                self._inflight -= 1
            return await _finish(context, served)

        async def admitted(request: Message, context: Context, metadata: dict[str, str | bytes]) -> Message:
            if self._inflight > self._inflight_max:
                rejected.inc()
                raise Overloaded
            self._verifier.verify(str(metadata.get("authorization", "")))
            return await behaviour(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


async def _finish(context: Context, served: Served[Message]) -> Message:
    if served.message is None:
        assert served.status is not None
        await context.abort_with_status(rpc_status.to_status(served.status))
    if served.replayed:
        context.set_trailing_metadata(REPLAYED)
    return served.message
