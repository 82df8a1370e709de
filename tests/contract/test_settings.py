"""The names and defaults of settings that deployments rely on."""

import pytest

from coupon.settings import CouponSettings
from gateway.settings import GatewaySettings
from infra.settings import Settings, WorkerSettings
from point.settings import PointSettings
from timesale.settings import TimesaleSettings

EVERY = {
    *("SERVICE_NAME", "TRACING_ENABLED", "JAEGER_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "ETCD_HOSTS", "LOG_LEVEL"),
    *("DATABASE_URL", "REDIS_URL", "REDIS_CLUSTER", "SENTRY_DSN", "OPERATIONS_PORT", "LISTEN_HOST", "ADVERTISE_HOST"),
    *("SERVICE_TOKEN_SECRET", "INSTRUMENTATION", "SPAN_NAMES", "ENVIRONMENT", "OTEL_TRACES_SAMPLER"),
    "OTEL_TRACES_SAMPLER_ARG",
}
GATEWAY = {
    *("PORT", "JWT_SECRET", "JWT_EXPIRATION", "THROTTLE_TTL", "THROTTLE_LIMIT", "COUPON_ADDRESSES", "POINT_ADDRESSES"),
    *("TIMESALE_ADDRESSES", "COALESCE_RPC", "TRUSTED_PROXY_HOPS"),
}
WORKER = {"GRPC_PORT", "KAFKA_BROKERS"}
PLACES = {
    GatewaySettings: ("api-gateway", {"port": 4000, "operations_port": 4001}),
    CouponSettings: ("coupon-service", {"grpc_port": 50051, "operations_port": 3001}),
    PointSettings: ("point-service", {"grpc_port": 50052, "operations_port": 3002}),
    TimesaleSettings: ("timesale-service", {"grpc_port": 50053, "operations_port": 3003}),
}


@pytest.mark.parametrize("settings", PLACES, ids=lambda settings: settings.__name__)
def test_a_process_knows_the_names_that_were_promised(settings: type[Settings]) -> None:
    names = {name.upper() for name in settings.model_fields}
    assert EVERY | (WORKER if issubclass(settings, WorkerSettings) else GATEWAY) <= names


@pytest.mark.parametrize("settings", PLACES, ids=lambda settings: settings.__name__)
def test_a_process_has_its_name_its_ports_and_listens_to_this_machine_alone(settings: type[Settings]) -> None:
    name, ports = PLACES[settings]
    made = settings()
    assert (made.service_name, made.listen_host) == (name, "127.0.0.1")
    assert {port: getattr(made, port) for port in ports} == ports


def test_the_defaults_are_those_that_were_promised() -> None:
    gateway, worker = GatewaySettings(), WorkerSettings()
    assert (gateway.tracing_enabled, gateway.jaeger_endpoint) == (True, "localhost:4317")
    assert (gateway.throttle_ttl, gateway.throttle_limit, gateway.jwt_expiration) == (60_000, 100, 86_400)
    assert (gateway.instrumentation, gateway.span_names, gateway.environment) == ("own", "semconv", "development")
    days = {name: days for name, days in worker.model_dump().items() if name.endswith("_retention_days")}
    assert days.pop("inbox_retention_days") >= 8
    assert days == {
        "command_retention_days": 7, "outbox_retention_days": 7, "topic_retention_days": 7,
        "dead_letter_retention_days": 30,
    }  # fmt: skip
