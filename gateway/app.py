"""The gateway as an ASGI application: the route table, and what every request passes, in one look."""

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette import routing
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import docs, door
from gateway.clients import COUPON, POINT, TIMESALE
from gateway.endpoint import ADMIN, ANYONE, PUBLIC, SERVICE, USER, Call, Endpoint, Gateway, Methods, Route
from gateway.routes import auth, coupons, health, orders, points, timesales, wallet
from infra.errors import NotFound
from infra.telemetry.http import HttpTelemetry

BASE = "/api/v1"

# Method, path, who, what, status. `admin` may do everything; a GET that is not marked admin is open to `service` too.
# Paths are looked up in this order: the hot ones come first.
ROUTES = (
    Route("POST", "/orders", USER, Call(TIMESALE, "CreateOrder", orders.create), 201),
    Route("POST", "/coupons/issue", USER, Call(COUPON, "IssueCoupon", coupons.issue), 201),
    Route("POST", "/coupons/{id}/use", ANYONE, Call(COUPON, "UseCoupon", coupons.use)),
    Route("POST", "/coupons/{id}/cancel", ANYONE, Call(COUPON, "CancelCoupon", coupons.cancel)),
    Route("GET", "/coupons/{id}", ANYONE, Call(COUPON, "GetCoupon", coupons.get)),
    Route("GET", "/coupons/user/{userId}", ANYONE, Call(COUPON, "GetUserCoupons", coupons.list_of_user)),
    Route("POST", "/coupon-policies", ADMIN, Call(COUPON, "CreateCouponPolicy", coupons.create_policy), 201),
    Route("GET", "/coupon-policies", ANYONE, Call(COUPON, "ListCouponPolicies", coupons.list_policies)),
    Route("GET", "/coupon-policies/{id}", ANYONE, Call(COUPON, "GetCouponPolicy", coupons.get_policy)),
    Route("POST", "/points/earn", SERVICE, Call(POINT, "EarnPoints", points.earn), 201),
    Route("POST", "/points/use", ANYONE, Call(POINT, "UsePoints", points.use), 201),
    Route("POST", "/points/cancel", SERVICE, Call(POINT, "CancelPoints", points.cancel), 201),
    Route("GET", "/points/users/{userId}/balance", ANYONE, Call(POINT, "GetBalance", points.balance)),
    Route("GET", "/points/users/{userId}/history", ANYONE, Call(POINT, "GetHistory", points.history)),
    Route("POST", "/products", ADMIN, Call(TIMESALE, "CreateProduct", timesales.create_product), 201),
    Route("GET", "/products", ANYONE, Call(TIMESALE, "ListProducts", timesales.list_products)),
    Route("GET", "/products/{id}", ANYONE, Call(TIMESALE, "GetProduct", timesales.get_product)),
    Route("POST", "/time-sales", ADMIN, Call(TIMESALE, "CreateTimeSale", timesales.create_time_sale), 201),
    Route("GET", "/time-sales", ANYONE, Call(TIMESALE, "ListTimeSales", timesales.list_time_sales)),
    Route("GET", "/time-sales/{id}", ANYONE, Call(TIMESALE, "GetTimeSale", timesales.get_time_sale)),
    Route("GET", "/orders/{id}", ANYONE, Call(TIMESALE, "GetOrder", orders.get)),
    Route("GET", "/orders/user/{userId}", ANYONE, Call(TIMESALE, "GetUserOrders", orders.list_of_user)),
    Route("GET", "/users/{userId}/wallet", ANYONE, wallet.show),
    Route("POST", "/auth/register", PUBLIC, auth.register, 201, ("register", "default")),
    Route("POST", "/auth/login", PUBLIC, auth.login, 200, ("login", "default")),
    Route("GET", "/auth/profile", ANYONE, auth.profile),
    Route("GET", "/health", PUBLIC, health.check, 200, ()),
    Route("GET", "/circuit-breakers", ADMIN, health.circuit_breakers),
)


class Path(routing.Route):
    """A path of ours, which names itself in the scope: who measures the request outside wants its template."""

    def matches(self, scope: Scope) -> tuple[routing.Match, Scope]:
        match, found = super().matches(scope)
        return match, ({**found, "route": self} if found else found)


def build(gateway: Gateway) -> ASGIApp:
    """The application: telemetry outside, so that every answer is measured and carries its ids; then the routes."""
    app = FastAPI(
        telemetry=_telemetry(gateway), openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for path in dict.fromkeys(route.path for route in ROUTES):
        here = [route for route in ROUTES if route.path == path]
        endpoints = {route.method: Endpoint(route, gateway, BASE + path) for route in here}
        app.router.routes.append(Path(BASE + path, Methods(endpoints)))
    for path, page in docs.pages(BASE, ROUTES).items():
        app.router.routes.append(Path(path, Methods({"GET": page})))
    app.router.default = _not_found
    # The routes alone say everything themselves; what FastAPI wraps round them is for its own telemetry.
    inner: ASGIApp = app if gateway.settings.instrumentation == "stock" else app.router
    return HttpTelemetry(inner, gateway.settings, quiet_paths=frozenset({f"{BASE}/health"}))


def _telemetry(gateway: Gateway) -> TelemetryConfig:
    """FastAPI's own spans serve the stock instrumentation only."""
    if gateway.settings.instrumentation == "stock":
        return {"operation_spans": False}
    return {"tracing": False, "metrics": False, "logs": False}


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await door.send_answer(send, door.problem(NotFound("Route", scope["path"]), scope), 404)
