"""Our HTTP server: what every answer carries, whose trace is joined, and which connections are closed."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from infra import logs
from infra.errors import StartFailed
from infra.http_server import HttpServer, serving
from infra.settings import Settings
from infra.telemetry import StatusCode, names
from infra.telemetry.http import HttpTelemetry
from tests.fixtures.tracing import Spans
from tests.fixtures.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
FOREIGN = f"00-{TRACE}-b7ad6b7169203331-01"
HEAD_SECONDS = 0.3
SETTINGS = Settings(http_head_seconds=HEAD_SECONDS, http_head_bytes_max=8_192, http_keep_alive_seconds=2)
OWN: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


ASKED, ANSWER = asyncio.Event(), asyncio.Event()


def make_app(telemetry: TelemetryConfig = OWN) -> FastAPI:
    app = FastAPI(telemetry=telemetry)

    @app.get("/coupons/{id}")
    async def coupon(id: int) -> dict[str, int]:
        logs.add_facts(user_id="7", command_id="c", refusal_code="SOLD_OUT" if id == 2 else None)
        return {"id": id}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "up"}

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("a bug of c4n4ry@mail.example")

    @app.post("/size")
    async def size(body: dict[str, Any]) -> dict[str, int]:
        return {"size": len(str(body))}

    @app.get("/slow")
    async def slow() -> dict[str, str]:
        ASKED.set()
        await ANSWER.wait()
        return {"slow": "yes"}

    return app


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[HttpServer]:
    app = HttpTelemetry(make_app(), SETTINGS, quiet_paths=frozenset({"/health"}))
    async with serving(app, SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
async def client(server: HttpServer) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as found:
        yield found


async def read_all(port: int, *sent: bytes, every: float = 0.0) -> bytes:
    """What the server sends back until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every)
    except ConnectionError:
        pass
    async with asyncio.timeout(HEAD_SECONDS + 2):
        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def test_a_request_is_a_server_span_named_by_its_route(client: httpx2.AsyncClient, spans: Spans) -> None:
    answer = await client.get("/coupons/5?x=1", headers={"user-agent": "test"})
    [span] = spans.named("GET /coupons/{id}")
    assert span.context is not None
    assert answer.headers["traceparent"] == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert dict(span.attributes or {}) | {names.SERVER_PORT: 0, names.REQUEST_ID: ""} == {
        names.HTTP_REQUEST_METHOD: "GET",
        names.HTTP_ROUTE: "/coupons/{id}",
        names.HTTP_RESPONSE_STATUS_CODE: 200,
        names.URL_PATH: "/coupons/5",
        names.URL_SCHEME: "http",
        names.SERVER_ADDRESS: "127.0.0.1",
        names.SERVER_PORT: 0,
        names.CLIENT_ADDRESS: "127.0.0.1",
        names.USER_AGENT_ORIGINAL: "test",
        names.OPERATION: "HTTP GET /coupons/{id}",
        names.OUTCOME: "ok",
        names.USER_ID: "7",
        names.COMMAND_ID: "c",
        names.REQUEST_ID: "",
    }


async def test_one_wide_line_tells_the_request(client: httpx2.AsyncClient, spans: Spans) -> None:
    with capture_logs() as lines:
        answer = await client.get("/coupons/2", headers={"x-request-id": "abc-1"})
        await eventually(lambda: lines)
    [line] = lines
    assert answer.headers["x-request-id"] == "abc-1"
    assert isinstance(line.pop("duration_ms"), float)
    assert line == {
        "event": "request.completed", "log_level": "info", "source": "infra.telemetry.http", "method": "GET",
        "route": "/coupons/{id}", "status": 200, "outcome": "ok", "user_id": "7", "command_id": "c",
        "refusal_code": "SOLD_OUT", "exc_info": None,
    }  # fmt: skip


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "ümlaut"])
async def test_a_strange_request_id_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.get("/coupons/1", headers=[(b"x-request-id", given.encode())])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_trusted_peer_continues_its_trace(client: httpx2.AsyncClient, spans: Spans) -> None:
    answer = await client.get("/coupons/1", headers={"traceparent": FOREIGN})
    [span] = spans.named("GET /coupons/{id}")
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")


async def test_the_flag_of_a_trusted_peer_counts(client: httpx2.AsyncClient, spans: Spans) -> None:
    answer = await client.get("/coupons/1", headers={"traceparent": FOREIGN[:-1] + "0"})
    assert answer.headers["traceparent"] == FOREIGN[:-1] + "0"
    assert spans.finished() == []


async def test_a_strangers_trace_becomes_a_link_of_a_new_one(spans: Spans) -> None:
    settings = SETTINGS.model_copy(update={"trace_trusted_peers": ("10.0.0.0/8",)})
    async with serving(HttpTelemetry(make_app(), settings), settings) as server, httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/coupons/1", headers={"traceparent": FOREIGN})
    [span] = spans.named("GET /coupons/{id}")
    assert span.parent is None
    assert TRACE not in answer.headers["traceparent"]
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]


@pytest.mark.parametrize("bad", ["", "junk", "00-0-0-0", FOREIGN + "-extra", "ff" + FOREIGN[2:], "é"])
async def test_a_bad_trace_context_is_ignored(client: httpx2.AsyncClient, spans: Spans, bad: str) -> None:
    answer = await client.get("/coupons/1", headers=[(b"traceparent", bad.encode())])
    assert answer.status_code == 200
    [span] = spans.named("GET /coupons/{id}")
    assert span.parent is None
    assert span.links == ()


async def test_an_unknown_path_has_no_route(client: httpx2.AsyncClient, spans: Spans) -> None:
    assert (await client.get("/nowhere")).status_code == 404
    [span] = spans.named("GET")
    assert names.HTTP_ROUTE not in (span.attributes or {})
    assert span.status.status_code is StatusCode.UNSET


async def test_a_bug_is_a_bare_500_and_an_error_with_its_stack(client: httpx2.AsyncClient, spans: Spans) -> None:
    with capture_logs() as lines:
        answer = await client.get("/broken")
        await eventually(lambda: lines)
    assert answer.status_code == 500
    assert "c4n4ry" not in answer.text
    [span] = spans.named("GET /broken")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert (span.attributes or {})[names.OUTCOME] == "error"
    [line] = [line for line in lines if line["event"] == "request.completed"]
    assert line["log_level"] == "error"
    assert isinstance(line["exc_info"], ValueError)


async def test_too_many_requests_at_once_are_refused_cheaply(spans: Spans) -> None:
    settings = SETTINGS.model_copy(update={"http_requests_max": 1})
    ASKED.clear()
    ANSWER.clear()
    async with serving(HttpTelemetry(make_app(), settings), settings) as server, httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.port}"
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(client.get(f"{url}/slow"))
            await ASKED.wait()
            refused = await client.get(f"{url}/coupons/1")
            ANSWER.set()
        assert (await client.get(f"{url}/coupons/1")).status_code == 200
    assert slow.result().status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["code"] == "UNAVAILABLE"
    assert {"x-request-id", "traceparent"} <= set(refused.headers)


async def test_health_makes_no_span_but_its_answer_has_ids(client: httpx2.AsyncClient, spans: Spans) -> None:
    answer = await client.get("/health")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer.headers["traceparent"])
    assert spans.finished() == []


@pytest.mark.parametrize(("peers", "joined"), [(("127.0.0.0/8",), True), (("10.0.0.0/8",), False)])
async def test_with_stock_instrumentation_the_span_is_fastapis(peers: tuple[str, ...], joined: bool) -> None:
    memory, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    settings = SETTINGS.model_copy(update={"instrumentation": "stock", "trace_trusted_peers": peers})
    app = HttpTelemetry(make_app({"operation_spans": False, "tracer_provider": provider}), settings)
    async with serving(app, settings) as server, httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/coupons/1", headers={"traceparent": FOREIGN})
    [span] = memory.get_finished_spans()
    assert span.name == "GET /coupons/{id}"
    assert span.context is not None
    assert answer.headers["traceparent"] == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert (f"{span.context.trace_id:032x}" == TRACE) is joined


@pytest.mark.parametrize(
    "sent",
    [(), (b"GET /coupons/1 HT",), (b"GET /coupons/1 HTTP/1.1\r\nhost: x\r\n",)],
    ids=["silent", "half a line", "half a head"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(server: HttpServer, sent: tuple[bytes, ...]) -> None:
    assert await read_all(server.port, *sent) == b""


async def test_a_head_that_trickles_is_not_waited_for(server: HttpServer) -> None:
    trickle = [b"GET / HTTP/1.1\r\n", *(b"x-%d: y\r\n" % number for number in range(10))]
    assert await read_all(server.port, *trickle, every=HEAD_SECONDS / 4) == b""


@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_large_head_is_refused(server: HttpServer, pieces: int) -> None:
    head = b"GET /coupons/1 HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 2_000) for n in range(40))
    step = len(head) // pieces + 1
    answer = await read_all(server.port, *(head[at : at + step] for at in range(0, len(head), step)), b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""  # the answer may be lost in the reset
    assert b"200 OK" not in answer


async def test_a_header_without_an_end_is_refused(server: HttpServer) -> None:
    endless = (b"GET / HTTP/1.1\r\nx: ", b"y" * 5_000, b"y" * 5_000)
    answer = await read_all(server.port, *endless, every=0.02)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_large_url_is_refused(server: HttpServer) -> None:
    answer = await read_all(server.port, b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_kept_connections_and_large_bodies_are_untouched(client: httpx2.AsyncClient) -> None:
    for _ in range(3):
        assert (await client.post("/size", json={"a": "x" * 50_000})).json()["size"] > 50_000
        await asyncio.sleep(
            HEAD_SECONDS * 1.2
        )  # longer than a head may take: an idle connection is not waiting for one
    assert (await client.get("/coupons/1")).status_code == 200


async def test_a_taken_port_is_one_clear_line(server: HttpServer) -> None:
    with pytest.raises(StartFailed, match=rf"^port {server.port} on 127.0.0.1 is taken$"):
        async with asyncio.TaskGroup() as tasks:
            second = HttpServer(
                make_app(), SETTINGS.model_copy(update={"bind_retry_seconds": 0.1}), tasks, port=server.port
            )
            try:
                await second.start()
            except StartFailed as error:
                failure = error
        raise failure


async def test_a_draining_server_finishes_what_was_asked(spans: Spans) -> None:
    settings = SETTINGS.model_copy(update={"drain_notice_seconds": 0.1})
    async with asyncio.TaskGroup() as tasks, httpx2.AsyncClient() as client:
        server = HttpServer(make_app(), settings, tasks, port=0)
        await server.start()
        ASKED.clear()
        ANSWER.clear()
        url = f"http://127.0.0.1:{server.port}"
        slow = tasks.create_task(client.get(f"{url}/slow"))
        await ASKED.wait()
        draining = tasks.create_task(server.drain())
        await asyncio.sleep(0)
        told = await client.get(f"{url}/coupons/1")
        assert told.headers["connection"] == "close"
        ANSWER.set()
        assert (await slow).status_code == 200
        await draining
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"{url}/coupons/1")
