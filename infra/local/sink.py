"""A small trace backend for the local stack: takes OTLP over gRPC, answers Jaeger's query API from memory.

`python -m infra.local.sink OTLP_PORT QUERY_PORT` runs it as a process of its own.
"""

import asyncio
import base64
import contextlib
import functools
import signal
import sys
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import orjson
import uvicorn
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, TracesData

SPANS_MAX = 100_000  # about 100 MB; the oldest traces go first
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
STOP_SECONDS = 2.0
TRACES = "/api/v3/traces/"
IDS = ("traceId", "spanId", "parentSpanId")


class Traces:
    """The newest traces, by id; bounded by the number of their spans."""

    def __init__(self, spans_max: int = SPANS_MAX) -> None:
        self._spans_max = spans_max
        self._spans = 0
        self._kept: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._sizes: Counter[bytes] = Counter()

    def add(self, spans: ResourceSpans) -> None:
        """Keep an export of one resource, cut by trace."""
        for trace_id, part in _by_trace(spans):
            self._kept.setdefault(trace_id, []).append(part.SerializeToString())
            count = sum(len(scope.spans) for scope in part.scope_spans)
            self._sizes[trace_id] += count
            self._spans += count
        while self._spans > self._spans_max:
            oldest, _ = self._kept.popitem(last=False)
            self._spans -= self._sizes.pop(oldest)

    def find(self, trace_id: bytes) -> dict[str, Any] | None:
        """The trace as OTLP JSON, or None when it is unknown."""
        parts = self._kept.get(trace_id)
        if parts is None:
            return None
        data = TracesData(resource_spans=[ResourceSpans.FromString(part) for part in parts])
        answer: dict[str, Any] = MessageToDict(data, use_integers_for_enums=True)
        for holder in _holders(answer):
            _to_hex(holder)
        return answer


def _holders(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each span and each link of an OTLP JSON document: whatever carries ids."""
    for resource in answer.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                yield span
                yield from span.get("links", ())


def _to_hex(holder: dict[str, Any]) -> None:
    """Protobuf's JSON writes bytes in base64, OTLP's JSON writes ids in hex."""
    for key in IDS:
        if key in holder:
            holder[key] = base64.b64decode(holder[key]).hex()


def _by_trace(spans: ResourceSpans) -> Iterator[tuple[bytes, ResourceSpans]]:
    parts: dict[bytes, ResourceSpans] = {}
    for scope in spans.scope_spans:
        scopes: dict[bytes, ScopeSpans] = {}
        for span in scope.spans:
            if span.trace_id not in scopes:
                part = parts.setdefault(span.trace_id, ResourceSpans(resource=spans.resource))
                scopes[span.trace_id] = part.scope_spans.add(scope=scope.scope)
            scopes[span.trace_id].spans.append(span)
    yield from parts.items()


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def Export(  # noqa: N802 - the name of the proto
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for spans in request.resource_spans:
            self._traces.add(spans)
        return trace_service_pb2.ExportTraceServiceResponse()


async def query(traces: Traces, scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application of the query API: `GET /api/v3/traces/{id}`, the answer under `result`."""
    status, body = _answer(traces, scope["path"])
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _answer(traces: Traces, path: str) -> tuple[int, bytes]:
    with contextlib.suppress(ValueError):  # not hex: as unknown as any other id
        found = traces.find(bytes.fromhex(path.removeprefix(TRACES))) if path.startswith(TRACES) else None
        if found is not None:
            return 200, orjson.dumps({"result": found})
    return 404, orjson.dumps({"error": {"httpCode": 404, "message": "trace not found"}})


@contextlib.asynccontextmanager
async def serving(otlp_port: int, query_port: int, traces: Traces | None = None) -> AsyncIterator[Traces]:
    """The sink on two loopback ports, until the block ends."""
    traces = traces or Traces()
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    collector = grpc.aio.server(options=options)
    add = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(_Collector(traces), collector)  # type: ignore[no-untyped-call]  # generated without types
    collector.add_insecure_port(f"127.0.0.1:{otlp_port}")
    await collector.start()
    config = uvicorn.Config(
        functools.partial(query, traces),
        interface="asgi3",  # a partial looks like the older kind
        host="127.0.0.1",
        port=query_port,
        lifespan="off",
        log_level="warning",
    )
    http = _Http(config)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(http.serve())
        while not http.started:  # noqa: ASYNC110 - uvicorn tells it by a flag alone
            await asyncio.sleep(0.01)
        try:
            yield traces
        finally:
            http.should_exit = True
            await collector.stop(STOP_SECONDS)
            await running


class _Http(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to who runs the sink."""
        yield


async def _main(otlp_port: int, query_port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(otlp_port, query_port):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))
