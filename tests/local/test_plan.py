"""What each process is told."""

from pathlib import Path

import pytest

from infra.local.plan import Plan, database_url, environment, given_settings, make_plan, parse_instances

URLS = {"postgres": "postgresql://u:p@host:1", "valkey": "redis://host:2/0", "kafka": "host:3"}
SECRETS = {"JWT_SECRET": "a" * 32, "SERVICE_TOKEN_SECRET": "b" * 32}


def told(plan: Plan, name: str) -> dict[str, str]:
    instance = next(one for one in plan.instances if one.name == name)
    return environment(plan, instance, URLS, SECRETS)


def test_each_process_has_its_own_database_on_the_one_server() -> None:
    plan = make_plan(parse_instances(""), {})

    assert {told(plan, name)["DATABASE_URL"] for name in ("gateway", "coupon", "point", "timesale")} == {
        f"postgresql://u:p@host:1/{database}" for database in ("gateway_db", "coupon_db", "point_db", "timesale_db")
    }


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("postgresql://u@h:1", "postgresql://u@h:1/coupon_db"),
        ("postgresql://u@h:1/", "postgresql://u@h:1/coupon_db"),
        ("postgresql://u@h:1/postgres?sslmode=require", "postgresql://u@h:1/coupon_db?sslmode=require"),
    ],
)
def test_the_name_of_a_database_takes_the_place_of_the_path(server: str, url: str) -> None:
    assert database_url(server, "coupon_db") == url


def test_the_edge_is_told_where_every_instance_of_a_worker_is() -> None:
    plan = make_plan(parse_instances("coupon=2"), {})
    addresses = told(plan, "gateway")["COUPON_ADDRESSES"].split(",")

    assert addresses == [f"127.0.0.1:{told(plan, name)['GRPC_PORT']}" for name in ("coupon", "coupon-2")]
    assert "COUPON_ADDRESSES" not in told(plan, "coupon")


def test_traces_go_to_the_sink_unless_a_person_named_a_backend() -> None:
    own = make_plan(parse_instances(""), {"JAEGER_ENDPOINT": "localhost:4317"})
    theirs = make_plan(parse_instances(""), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"})

    assert own.keeps_traces
    assert told(own, "coupon")["JAEGER_ENDPOINT"] == f"localhost:{own.server_ports['otlp']}"
    assert not theirs.keeps_traces
    assert "JAEGER_ENDPOINT" not in told(theirs, "coupon")
    assert not make_plan(parse_instances(""), {"JAEGER_QUERY_URL": "http://jaeger:16686"}).keeps_traces


def test_the_environment_wins_over_the_file_and_an_empty_value_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1\nREDIS_URL=redis://file\nKAFKA_BROKERS=\n")

    assert given_settings({"PORT": "2"}, tmp_path) == {"PORT": "2", "REDIS_URL": "redis://file"}
