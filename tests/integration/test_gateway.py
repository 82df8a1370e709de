"""The gateway's door: what every request meets, with a worker behind it that answers what the test says."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from gateway.settings import GatewaySettings
from infra.caller import Role
from infra.errors import Fact, Kind, NotFound, Overloaded, Refused, Unavailable
from infra.rpc import call
from infra.telemetry import StatusCode
from protos.caller.v1 import caller_pb2
from protos.coupon.v1 import coupon_pb2
from protos.timesale.v1 import timesale_pb2
from tests.fixtures.databases import GATEWAY, Databases
from tests.fixtures.gateways import Edge, Worker, edge, worker
from tests.fixtures.servers import Servers
from tests.fixtures.tracing import Spans, recorded

ORDER = timesale_pb2.Order(
    id=900, time_sale_id=42, user_id="u-1", quantity=2, status=timesale_pb2.ORDER_STATUS_COMPLETED, queue_number=17,
    unit_price=7000, total_price=14000, reward_points=5,
)  # fmt: skip


# Workers and a gateway for all tests of this file: each test says what the workers answer it.
@pytest.fixture(scope="module")
async def _sales() -> AsyncIterator[Worker]:
    async with worker("timesale") as running:
        yield running


@pytest.fixture(scope="module")
async def _coupons() -> AsyncIterator[Worker]:
    async with worker("coupon") as running:
        yield running


@pytest.fixture(scope="module")
async def settings(servers: Servers, valkey: str, _sales: Worker, _coupons: Worker) -> AsyncIterator[GatewaySettings]:
    databases = Databases(servers.database_url)
    yield GatewaySettings(
        database_url=await databases.make(GATEWAY),
        redis_url=valkey,
        throttle_limit=1000,
        throttle_timeout_seconds=2,  # on a busy machine, too, each test counts in Redis
        redis_timeout_seconds=2,
        timesale_addresses=(f"127.0.0.1:{_sales.port}",),
        coupon_addresses=(f"127.0.0.1:{_coupons.port}",),
        point_addresses=("127.0.0.1:9",),
        http_body_seconds=0.3,
        health_check_seconds=0.3,
        wallet_part_seconds=0.3,
    )
    await databases.drop_all()


@pytest.fixture(scope="module")
async def api(settings: GatewaySettings) -> AsyncIterator[Edge]:
    async with edge(settings) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _traced() -> Iterator[None]:
    """Every answer carries the ids of its span."""
    with recorded():
        yield


@pytest.fixture
def sales(_sales: Worker) -> Worker:
    _sales.forget()
    _sales.on("CreateOrder", lambda request: ORDER)
    return _sales


@pytest.fixture
def coupons(_coupons: Worker) -> Worker:
    _coupons.forget()
    return _coupons


@pytest.fixture(autouse=True)
async def _fresh_buckets(redis_url: str) -> None:
    """No test finds another one's requests counted."""


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"], body["status"]) == (status, code, status), body
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "instance", "traceId"} <= set(body)
    assert response.headers["x-request-id"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", response.headers["traceparent"])
    assert body["traceId"] == response.headers["traceparent"].split("-")[1]
    return body


async def test_an_order_reaches_the_worker_and_its_answer_is_the_resource(api: Edge, sales: Worker) -> None:
    response = await api.post("/orders", {"timeSaleId": "42", "quantity": 2})
    assert response.status_code == 201
    assert response.json()["id"] == "900"
    assert response.json()["totalPrice"] == 14000
    assert response.json()["holdId"] is None
    asked = sales.asked[0]
    assert (asked.time_sale_id, asked.user_id, asked.quantity) == (42, "u-1", 2)
    assert asked.caller == caller_pb2.Caller(user_id="u-1", role=caller_pb2.ROLE_USER)
    assert len(asked.fingerprint) == 33


async def test_the_same_key_is_the_same_command_and_another_body_another_fingerprint(api: Edge, sales: Worker) -> None:
    for quantity, key in ((2, "k-1"), (2, '"k-1"'), (3, "k-1"), (2, "k-2")):
        body = {"timeSaleId": 42, "quantity": quantity}
        assert (await api.post("/orders", body, headers={"Idempotency-Key": key})).status_code == 201
    first, quoted, other_body, other_key = sales.asked
    assert first.command_id == quoted.command_id == other_body.command_id != other_key.command_id
    assert first.fingerprint == quoted.fingerprint == other_key.fingerprint != other_body.fingerprint


async def test_without_a_key_every_request_is_its_own_command(api: Edge, sales: Worker) -> None:
    for _ in range(2):
        await api.post("/orders", {"timeSaleId": 42, "quantity": 2})
    assert sales.asked[0].command_id != sales.asked[1].command_id


async def test_a_replayed_answer_says_so(api: Edge, sales: Worker) -> None:
    def replay(request: Any) -> timesale_pb2.Order:
        call.mark_replayed()
        return ORDER

    first = await api.post("/orders", {"timeSaleId": 42, "quantity": 2})
    sales.on("CreateOrder", replay)
    again = await api.post("/orders", {"timeSaleId": 42, "quantity": 2})
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content


async def test_a_malformed_key_is_refused(api: Edge) -> None:
    response = await api.post("/orders", {"timeSaleId": 42, "quantity": 2}, headers={"Idempotency-Key": "a b"})
    assert problem(response, 400, "VALIDATION_FAILED")["errors"][0]["field"] == "Idempotency-Key"


async def test_somebody_elses_user_id_is_forbidden_for_a_user_and_not_for_an_admin(api: Edge, sales: Worker) -> None:
    body = {"timeSaleId": 42, "quantity": 1, "userId": "u-2"}
    problem(await api.post("/orders", body), 403, "FORBIDDEN")
    assert sales.asked == []
    assert (await api.post("/orders", body, user_id="boss", role=Role.ADMIN)).status_code == 201
    assert sales.asked[0].user_id == "u-2"


async def test_a_number_as_user_id_becomes_its_text(api: Edge, sales: Worker) -> None:
    await api.post("/orders", {"timeSaleId": 42, "quantity": 1, "userId": 7}, user_id="7")
    assert sales.asked[0].user_id == "7"


async def test_a_refusal_is_told_with_its_facts(api: Edge, sales: Worker) -> None:
    facts: dict[str, Fact] = {
        "available": 2,
        "requested": 3,
        "missing": 1,
        "retry_at": datetime(2026, 5, 1, 9, tzinfo=UTC),
    }

    def refuse(request: Any) -> timesale_pb2.Order:
        raise Refused.of(Kind.STATE, "INSUFFICIENT_STOCK", facts)

    sales.on("CreateOrder", refuse)
    body = problem(await api.post("/orders", {"timeSaleId": 42, "quantity": 3}), 409, "INSUFFICIENT_STOCK")
    assert body["detail"] == "Insufficient stock. Available: 2, Requested: 3"
    assert (body["available"], body["requested"], body["missing"]) == (2, 3, 1)
    assert body["retryAt"].startswith("2026-05-01T09:00:00")
    assert (body["type"], body["instance"]) == ("/problems/insufficient-stock", "/api/v1/orders")


async def test_what_a_worker_does_not_find_is_named(api: Edge, coupons: Worker) -> None:
    def refuse(request: Any) -> coupon_pb2.Policy:
        raise NotFound("Coupon policy", request.coupon_policy_id)

    coupons.on("GetCouponPolicy", refuse)
    assert problem(await api.get("/coupon-policies/7"), 404, "NOT_FOUND")["detail"] == "Coupon policy 7 not found"


async def test_a_broken_worker_is_an_internal_error_without_text(api: Edge, sales: Worker) -> None:
    def broken(request: Any) -> timesale_pb2.Order:
        raise RuntimeError("SELECT secret FROM users")

    sales.on("CreateOrder", broken)
    response = await api.post("/orders", {"timeSaleId": 42, "quantity": 1})
    problem(response, 500, "INTERNAL")
    assert "SELECT" not in response.text


@pytest.mark.parametrize("refused", [Unavailable(), Overloaded()])
async def test_a_worker_that_is_away_or_full_is_503_with_retry_after(
    api: Edge, sales: Worker, refused: Refused
) -> None:
    def refuse(request: Any) -> timesale_pb2.Order:
        raise refused

    sales.on("CreateOrder", refuse)
    response = await api.post("/orders", {"timeSaleId": 42, "quantity": 1})
    problem(response, 503, "UNAVAILABLE")
    assert 1 <= int(response.headers["retry-after"]) <= 4


async def test_a_worker_that_is_gone_is_503(api: Edge) -> None:
    response = await api.get("/points/users/u-1/balance")
    problem(response, 503, "UNAVAILABLE")
    assert response.headers["retry-after"]


async def test_no_answer_in_time_is_504(settings: GatewaySettings, sales: Worker) -> None:
    async def sleep() -> timesale_pb2.Order:
        await asyncio.sleep(5)
        return ORDER

    sales.on("CreateOrder", lambda request: sleep())
    async with edge(settings.model_copy(update={"request_deadline_seconds": 0.2})) as api:
        started = asyncio.get_running_loop().time()
        problem(await api.post("/orders", {"timeSaleId": 42, "quantity": 1}), 504, "DEADLINE_EXCEEDED")
        assert asyncio.get_running_loop().time() - started < 1


@pytest.mark.parametrize(
    ("headers", "code"), [({}, 401), ({"Authorization": "Bearer x.y.z"}, 401), ({"Authorization": "Basic eA=="}, 401)]
)
async def test_nobody_gets_in_without_a_good_token_and_before_anything_else(
    api: Edge, headers: dict[str, str], code: int
) -> None:
    response = await api.client.post("/api/v1/orders", content=b"{", headers=headers)
    body = problem(response, code, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == 'Bearer realm="promo-api"'
    assert body["detail"] == "Missing or invalid access token"


async def test_an_unknown_path_and_a_wrong_method_are_problems_too(api: Edge) -> None:
    problem(await api.client.get("/api/v1/nothing"), 404, "NOT_FOUND")
    problem(await api.client.get("/"), 404, "NOT_FOUND")
    problem(await api.client.get("/api/v1/orders/"), 404, "NOT_FOUND")
    response = await api.client.put("/api/v1/orders")
    problem(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST, OPTIONS"
    both = await api.client.delete("/api/v1/products")
    assert both.headers["allow"] == "POST, GET, HEAD, OPTIONS"


async def test_options_says_what_there_is_and_head_is_get_without_its_body(api: Edge, sales: Worker) -> None:
    sales.on("GetOrder", lambda request: ORDER)
    options = await api.client.options("/api/v1/orders/900")
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS", b"")
    head = await api.client.head("/api/v1/orders/900", headers=api.bearer("u-1"))
    whole = await api.get("/orders/900")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {},
    ],
)
async def test_a_body_that_is_no_plain_json_is_415(api: Edge, headers: dict[str, str]) -> None:
    response = await api.client.post("/api/v1/orders", content=b"{}", headers=api.bearer("u-1") | headers)
    problem(response, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_json_with_a_charset_is_json(api: Edge, sales: Worker) -> None:
    headers = api.bearer("u-1") | {"Content-Type": 'application/json; charset="UTF-8"'}
    content = b'{"timeSaleId":42,"quantity":1}'
    assert (await api.client.post("/api/v1/orders", content=content, headers=headers)).status_code == 201


async def test_malformed_json_is_told_with_the_remedy(api: Edge) -> None:
    headers = api.bearer("u-1") | {"Content-Type": "application/json"}
    response = await api.client.post("/api/v1/orders", content=b'{"timeSaleId":42,}', headers=headers)
    error = problem(response, 400, "VALIDATION_FAILED")["errors"][0]
    assert error["field"] == "body"
    assert "line 1 column 18" in error["message"]
    assert error["message"].endswith("send one JSON object")


async def test_wrong_fields_are_named_as_the_client_wrote_them(api: Edge) -> None:
    body = problem(await api.post("/orders", {"timeSaleId": 1.5, "quantity": 0, "qty": 1}), 400, "VALIDATION_FAILED")
    assert {error["field"] for error in body["errors"]} == {"timeSaleId", "quantity", "qty"}


async def test_a_write_without_fields_takes_an_empty_body_or_an_empty_object(api: Edge, coupons: Worker) -> None:
    coupons.on("CancelCoupon", lambda request: coupon_pb2.Coupon(id=request.coupon_id))
    assert (await api.client.post("/api/v1/coupons/7/cancel", headers=api.bearer("u-1"))).status_code == 200
    assert (await api.post("/coupons/7/cancel", {})).status_code == 200
    problem(await api.post("/coupons/7/cancel", {"why": "x"}), 400, "VALIDATION_FAILED")


async def test_a_large_body_is_refused_whole_or_in_chunks(api: Edge, sales: Worker) -> None:
    headers = api.bearer("u-1") | {"Content-Type": "application/json"}
    response = await api.client.post("/api/v1/orders", content=b" " * 65_537, headers=headers)
    problem(response, 413, "BODY_TOO_LARGE")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(70):
            yield b" " * 1024

    response = await api.client.post("/api/v1/orders", content=chunks(), headers=headers)
    problem(response, 413, "BODY_TOO_LARGE")
    padded = b'{"timeSaleId":42,"quantity":1}'.ljust(65_536)
    assert (await api.client.post("/api/v1/orders", content=padded, headers=headers)).status_code == 201


async def test_a_body_that_never_comes_is_given_up(api: Edge) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = api.bearer("u-1")["Authorization"]
    writer.write(
        b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n"
        b"Authorization: " + token.encode() + b'\r\n\r\n{"time'
    )
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")


async def test_a_request_id_is_taken_if_it_is_sane_else_made(api: Edge) -> None:
    assert (await api.get("/orders/0", headers={"X-Request-ID": "mine-1"})).headers["x-request-id"] == "mine-1"
    made = await api.get("/orders/0", headers={"X-Request-ID": "x" * 200})
    assert made.headers["x-request-id"] not in ("", "x" * 200)


async def test_every_answer_says_what_is_left_of_the_rate(api: Edge, sales: Worker) -> None:
    response = await api.post("/orders", {"timeSaleId": 42, "quantity": 1})
    assert response.headers["ratelimit-policy"] == '"default";q=1000;w=60'
    assert re.fullmatch(r'"default";r=999;t=1', response.headers["ratelimit"])
    refused = await api.post("/orders", {})
    assert re.fullmatch(r'"default";r=99[89];t=1', refused.headers["ratelimit"])


async def test_above_the_limit_is_429_for_this_subject_alone(settings: GatewaySettings, sales: Worker) -> None:
    async with edge(settings.model_copy(update={"throttle_limit": 3})) as api:
        for _ in range(3):
            assert (await api.post("/orders", {"timeSaleId": 42, "quantity": 1})).status_code == 201
        response = await api.post("/orders", {"timeSaleId": 42, "quantity": 1})
        body = problem(response, 429, "RATE_LIMITED")
        assert 1 <= int(response.headers["retry-after"]) <= 20
        assert body["retryAt"].endswith("Z")
        assert response.headers["ratelimit"].startswith('"default";r=0;')
        assert (await api.post("/orders", {"timeSaleId": 42, "quantity": 1}, user_id="u-2")).status_code == 201


async def test_health_is_never_limited_and_says_who_is_down(settings: GatewaySettings) -> None:
    async with edge(settings.model_copy(update={"throttle_limit": 1})) as api:
        for _ in range(3):
            response = await api.client.get("/api/v1/health?x=/orders")
            body = problem(response, 503, "UNAVAILABLE")
            assert body["services"] == {
                "api-gateway": "up", "coupon-service": "up", "point-service": "down", "timesale-service": "up",
            }  # fmt: skip
            assert response.headers["retry-after"]
            assert "ratelimit" not in response.headers


async def test_health_is_200_when_all_are_up(settings: GatewaySettings) -> None:
    async with worker("point") as points:
        addresses = {"point_addresses": (f"127.0.0.1:{points.port}",)}
        async with edge(settings.model_copy(update=addresses)) as api:
            response = await api.client.get("/api/v1/health")
            assert response.status_code == 200
            assert set(response.json()["services"].values()) == {"up"}


async def test_breakers_are_shown_to_admins(api: Edge) -> None:
    problem(await api.get("/circuit-breakers"), 403, "FORBIDDEN")
    problem(await api.get("/circuit-breakers", role=Role.SERVICE), 403, "FORBIDDEN")
    shown = (await api.get("/circuit-breakers", role=Role.ADMIN)).json()["circuitBreakers"]
    assert [each["name"] for each in shown] == ["coupon-service", "point-service", "timesale-service"]
    assert {each["state"] for each in shown} == {"CLOSED"}


async def test_an_open_breaker_refuses_at_once_and_is_shown_open(settings: GatewaySettings) -> None:
    async with edge(settings.model_copy(update={"breaker_calls_min": 4})) as api:
        for _ in range(6):
            problem(await api.get("/points/users/u-1/balance"), 503, "UNAVAILABLE")
        shown = (await api.get("/circuit-breakers", role=Role.ADMIN)).json()["circuitBreakers"]
        assert shown[1]["state"] == "OPEN"
        assert shown[1]["counts"]["rejected"] > 0


async def test_a_wallet_says_which_part_is_missing(api: Edge, coupons: Worker, sales: Worker) -> None:
    coupons.on("GetUserCoupons", lambda request: coupon_pb2.GetUserCouponsResponse(coupons=[coupon_pb2.Coupon(id=1)]))
    sales.on("GetUserOrders", lambda request: timesale_pb2.GetUserOrdersResponse(orders=[ORDER]))
    wallet = (await api.get("/users/u-1/wallet")).json()
    assert (wallet["userId"], wallet["balance"], wallet["partial"]) == ("u-1", None, True)
    assert wallet["unavailable"] == ["point-service"]
    assert (wallet["coupons"][0]["id"], wallet["orders"][0]["id"]) == ("1", "900")
    assert coupons.asked[0].status == coupon_pb2.COUPON_STATUS_AVAILABLE
    assert sales.asked[0].size == 10


async def test_a_wallet_of_somebody_else_is_forbidden_and_one_without_parts_unavailable(
    settings: GatewaySettings,
) -> None:
    nobody = {"coupon_addresses": ("127.0.0.1:9",), "timesale_addresses": ("127.0.0.1:9",)}
    async with edge(settings.model_copy(update=nobody)) as api:
        problem(await api.get("/users/u-2/wallet"), 403, "FORBIDDEN")
        problem(await api.get("/users/u-1/wallet"), 503, "UNAVAILABLE")


async def test_requests_for_one_sale_travel_together_and_each_gets_its_own_answer(api: Edge, sales: Worker) -> None:
    batches = []

    async def slowly(request: Any) -> timesale_pb2.Order:
        await asyncio.sleep(0.3)
        return ORDER

    async def all_of(request: Any) -> timesale_pb2.BatchCreateOrdersResponse:
        batches.append(len(request.items))
        results = []
        for item in request.items:
            order = timesale_pb2.Order(id=item.request.quantity, user_id=item.request.caller.user_id)
            results.append(timesale_pb2.CreateOrderResult(order=order))
        return timesale_pb2.BatchCreateOrdersResponse(results=results)

    sales.on("CreateOrder", slowly)
    sales.on("BatchCreateOrders", all_of)
    answers = await asyncio.gather(
        *(api.post("/orders", {"timeSaleId": 42, "quantity": n}, user_id=f"u-{n}") for n in range(1, 21))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert sum(batches) >= 10, "but for the first two, who came in time for the first flights' end"
    told = [(n, answer.json()) for n, answer in enumerate(answers, 1)]
    assert sum(body["id"] == str(n) and body["userId"] == f"u-{n}" for n, body in told) == sum(batches)


async def test_the_documentation_is_served_from_here_alone(api: Edge) -> None:
    page = await api.client.get("/api/docs")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert link.startswith("/api/docs/")
        assert (await api.client.get(link)).status_code == 200
    document = (await api.client.get("/api/openapi.json")).json()
    assert "/api/v1/orders" in document["paths"]


async def test_a_request_is_one_tree_with_its_waits(api: Edge, sales: Worker, spans: Spans) -> None:
    await api.post("/orders", {"timeSaleId": 42, "quantity": 2}, headers={"Idempotency-Key": "traced"})
    (root,) = spans.named("POST /api/v1/orders")
    assert [child.name for child in spans.children_of(root)] == [
        "EVALSHA rate_limit",
        "promo.timesale.v1.TimeSaleService/CreateOrder",
        "serialize response",
    ]
    facts = dict(root.attributes or {})
    assert (facts["http.route"], facts["promo.outcome"]) == ("/api/v1/orders", "ok")
    assert (facts["user.id"], facts["promo.command.id"]) == ("u-1", sales.asked[0].command_id)


async def test_a_refusal_is_no_red_span_and_health_is_no_span(api: Edge, sales: Worker, spans: Spans) -> None:
    await api.post("/orders", {"timeSaleId": 42, "quantity": 0})
    (root,) = spans.named("POST /api/v1/orders")
    assert root.status.status_code is StatusCode.UNSET
    assert (root.attributes or {})["promo.refusal.code"] == "VALIDATION_FAILED"
    await api.client.get("/api/v1/health")
    assert spans.named("GET /api/v1/health") == []


async def test_with_stock_instrumentation_it_answers_the_same(settings: GatewaySettings, sales: Worker) -> None:
    async with edge(settings.model_copy(update={"instrumentation": "stock"})) as api:
        assert (await api.post("/orders", {"timeSaleId": 42, "quantity": 2})).status_code == 201
        assert (await api.client.get("/api/v1/nothing")).json()["code"] == "NOT_FOUND"
        assert (await api.client.put("/api/v1/orders")).json()["code"] == "METHOD_NOT_ALLOWED"


async def test_the_gateway_answers_while_redis_is_away(settings: GatewaySettings, sales: Worker) -> None:
    async with edge(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0", "throttle_limit": 2})) as api:
        for _ in range(2):
            assert (await api.post("/orders", {"timeSaleId": 42, "quantity": 1})).status_code == 201
        problem(await api.post("/orders", {"timeSaleId": 42, "quantity": 1}), 429, "RATE_LIMITED")


async def test_odd_bytes_never_make_a_500(api: Edge) -> None:
    headers = api.bearer("u-1") | {"Content-Type": "application/json"}
    for content in (b"\x00", b"\xff\xfe", b"[" * 60_000, b'{"timeSaleId":' + b"9" * 60_000 + b"}", b'{"a":1e400}'):
        problem(await api.client.post("/api/v1/orders", content=content, headers=headers), 400, "VALIDATION_FAILED")
    for path in ("/orders/%00", "/orders/user/%FF", "/orders/user/a%20b", "/orders/user/u-1?page=%FF&size=x"):
        assert (await api.get(path)).status_code == 400
    assert json.dumps("")
