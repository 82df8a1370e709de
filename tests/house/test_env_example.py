"""`.env.example` names every setting there is, and nothing else: the processes read it as the list of known names."""

from pathlib import Path

from tests.house.env_example import PROCESSES, lines

KEPT = """
SERVICE_NAME TRACING_ENABLED JAEGER_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT ETCD_HOSTS PORT GRPC_PORT JWT_SECRET
JWT_EXPIRATION THROTTLE_TTL THROTTLE_LIMIT LOG_LEVEL DATABASE_URL REDIS_URL KAFKA_BROKERS SENTRY_DSN OPERATIONS_PORT
LISTEN_HOST ADVERTISE_HOST COUPON_ADDRESSES POINT_ADDRESSES TIMESALE_ADDRESSES SERVICE_TOKEN_SECRET REDIS_CLUSTER
COALESCE_RPC INSTRUMENTATION SPAN_NAMES ENVIRONMENT TRUSTED_PROXY_HOPS JAEGER_QUERY_URL OTEL_TRACES_SAMPLER
OTEL_TRACES_SAMPLER_ARG
"""

ROOT = Path(__file__).parents[2]


def test_the_example_is_what_the_settings_classes_say() -> None:
    written = (ROOT / ".env.example").read_text()
    assert written == "\n".join(lines()).rstrip() + "\n", "python -m tests.house.env_example > .env.example"


def test_each_setting_is_named_bare_or_for_each_process_that_has_it() -> None:
    names = {line.split("=")[0] for line in lines() if "=" in line and not line.startswith("#")}
    for process, settings in PROCESSES.items():
        missing = [
            name
            for name in settings.model_fields
            if name.upper() not in names and f"{process}_{name}".upper() not in names
        ]
        assert not missing


def test_every_name_that_operators_were_promised_may_stand_in_the_file() -> None:
    known = {line.partition("=")[0] for line in lines() if "=" in line and not line.startswith("#")}
    bare = {name.removeprefix(f"{process.upper()}_") for name in known for process in PROCESSES} | known
    assert set(KEPT.split()) <= bare
