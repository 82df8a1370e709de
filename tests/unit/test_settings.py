"""Where settings come from, which one wins, and what stops a start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import Port, Settings, SettingsError, WorkerSettings, names_of, read, secret

STRONG = "0123456789abcdef0123456789abcdef"


class Coupon(WorkerSettings):
    """A worker as services declare it."""

    service_name: str = "coupon-service"
    grpc_port: Port = 50051
    jwt_secret: str = secret("a default that everybody knows, long enough")


def read_with(
    folder: Path, dotenv: str = "", example: str | None = "PORT=4000\nCOUPON_ADDRESSES=a\n", **environ: str
) -> Coupon:
    (folder / ".env").write_text(dotenv)
    if example is not None:
        (folder / ".env.example").write_text(example)
    return read(Coupon, "coupon", environ=environ, dotenv=folder / ".env", example=folder / ".env.example")


def refusal(folder: Path, dotenv: str = "", **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_with(folder, dotenv, **environ)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    assert read_with(tmp_path, "GRPC_PORT=1\nLOG_LEVEL=DEBUG\n", GRPC_PORT="2").grpc_port == 2
    assert read_with(tmp_path, "GRPC_PORT=1\nLOG_LEVEL=DEBUG\n", GRPC_PORT="2").log_level == "DEBUG"


def test_a_name_with_the_process_as_prefix_wins_over_the_bare_one(tmp_path: Path) -> None:
    settings = read_with(tmp_path, "COUPON_DATABASE_URL=mine\nPOINT_DATABASE_URL=its\n", DATABASE_URL="everybody's")
    assert settings.database_url == "mine"


def test_names_of_other_processes_are_known(tmp_path: Path) -> None:
    assert read_with(tmp_path, "PORT=4000\nGATEWAY_PORT=4002\n", COUPON_ADDRESSES="127.0.0.1:1").grpc_port == 50051


def test_a_malformed_value_is_one_line_that_names_the_variable(tmp_path: Path) -> None:
    text = refusal(tmp_path, GRPC_PORT="70000", COUPON_LOG_LEVEL="loud")
    assert "GRPC_PORT" in text
    assert "COUPON_LOG_LEVEL" in text
    assert "'loud'" in text


@pytest.mark.parametrize("name", ["POOL_ACQUIRE_SECONDS", "POOL_SIZE_MAX", "OTEL_TRACES_SAMPLER_ARG", "DRAIN_SECONDS"])
@pytest.mark.parametrize("value", ["-1", "nan", "much", ""])
def test_a_limit_is_a_positive_number(tmp_path: Path, name: str, value: str) -> None:
    assert name in refusal(tmp_path, **{name: value})


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    assert "GRPC_PROT" in refusal(tmp_path, "GRPC_PROT=1\n")


def test_an_unknown_name_with_one_of_our_prefixes_is_refused(tmp_path: Path) -> None:
    assert "TIMESALE_DATABSE_URL" in refusal(tmp_path, TIMESALE_DATABSE_URL="x")


def test_other_names_in_the_environment_are_nobodys_business(tmp_path: Path) -> None:
    assert read_with(tmp_path, HOME="/home/me", COUPONS="3").service_name == "coupon-service"


def test_a_line_without_a_value_is_refused(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "GRPC_PORT=1\nLOG_LEVEL\n")


def test_the_file_is_taken_literally(tmp_path: Path) -> None:
    assert read_with(tmp_path, 'export DATABASE_URL="postgresql://a:$HOME@h/d" # mine\n').database_url == (
        "postgresql://a:$HOME@h/d"
    )


def test_without_the_example_nothing_is_unknown(tmp_path: Path) -> None:
    assert read_with(tmp_path, "WHATEVER=1\n", example=None).grpc_port == 50051


def test_lists_and_booleans_are_read(tmp_path: Path) -> None:
    settings = read_with(tmp_path, ETCD_HOSTS="a:1, b:2 ,", TRACING_ENABLED="false", REDIS_CLUSTER="1")
    assert settings.etcd_hosts == ("a:1", "b:2")
    assert settings.tracing_enabled is False
    assert settings.redis_cluster is True


def test_production_refuses_default_and_short_secrets(tmp_path: Path) -> None:
    assert "SERVICE_TOKEN_SECRET: must be set" in refusal(tmp_path, ENVIRONMENT="production", JWT_SECRET=STRONG)
    short = refusal(tmp_path, ENVIRONMENT="production", SERVICE_TOKEN_SECRET="short", JWT_SECRET=STRONG)
    assert "SERVICE_TOKEN_SECRET" in short
    assert "short'" not in short
    rotating = refusal(tmp_path, ENVIRONMENT="production", SERVICE_TOKEN_SECRET=f"{STRONG},old", JWT_SECRET=STRONG)
    assert "SERVICE_TOKEN_SECRET" in rotating
    strong = read_with(tmp_path, ENVIRONMENT="production", SERVICE_TOKEN_SECRET=STRONG, JWT_SECRET=STRONG)
    assert strong.environment == "production"


def test_secrets_are_never_printed(tmp_path: Path) -> None:
    settings = read_with(tmp_path, DATABASE_URL="postgresql://u:hidden@h/d", SERVICE_TOKEN_SECRET="hidden")
    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings)


def test_the_names_are_the_fields_in_capitals() -> None:
    assert {"GRPC_PORT", "OTEL_EXPORTER_OTLP_ENDPOINT", "BATCH_LANES_MAX"} <= set(names_of(Coupon))


def test_a_process_stops_with_one_line_and_exit_code_two(tmp_path: Path, repository: Path) -> None:
    program = "from infra.settings import Settings, load; load(Settings, 'gateway')"
    environ = {"PYTHONPATH": str(repository), "PATH": os.environ["PATH"], "GATEWAY_OPERATIONS_PORT": "many"}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("gateway: setting GATEWAY_OPERATIONS_PORT: ")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Settings(), "log_level", "DEBUG")  # noqa: B010 - the type checker forbids the plain form


@pytest.mark.parametrize("name", ["TOPIC_RETENTION_DAYS", "OUTBOX_RETENTION_DAYS"])
def test_the_inbox_outlives_whatever_brings_an_event_again(tmp_path: Path, name: str) -> None:
    assert "INBOX_RETENTION_DAYS: value error, must be more than the 9 days" in refusal(tmp_path, **{name: "9"})


def test_a_handler_must_end_before_postgres_ends_its_transaction(tmp_path: Path) -> None:
    assert "CONSUMER_HANDLER_SECONDS" in refusal(tmp_path, CONSUMER_HANDLER_SECONDS="5")
    settings = read_with(tmp_path, CONSUMER_HANDLER_SECONDS="30", IDLE_IN_TRANSACTION_TIMEOUT_MS="31000")
    assert settings.consumer_handler_seconds == 30
