"""What can be set: the fields all processes share, and those all workers share."""

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _split(value: object) -> object:
    """A comma list becomes a tuple; empty parts are dropped."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _to_seconds(value: object) -> object:
    """`90`, `90s`, `15m`, `12h`, `1d` become seconds."""
    match = re.fullmatch(r"(\d+)([smhd]?)", value.strip()) if isinstance(value, str) else None
    return int(match[1]) * UNIT_SECONDS[match[2]] if match else value


ServiceName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Private: TypeAlias = Annotated[str, Field(repr=False)]  # never printed
CommaList: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_split)]
Duration: TypeAlias = Annotated[int, BeforeValidator(_to_seconds), Field(gt=0)]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65_535)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds: TypeAlias = Annotated[int, Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(gt=0)]
Ratio: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Environment: TypeAlias = Literal["development", "production"]
Sampler: TypeAlias = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]


def secret(default: str = "") -> Any:
    """A field that is never printed, and that production wants to be 32 bytes or more and not its default.

    A comma list of secrets is one key and those before it, during a rotation.
    """
    return Field(default, repr=False, json_schema_extra={"secret": True})


class Settings(BaseModel):
    """What every process can be told. Port 0 takes a free port (tests)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # who and where
    service_name: ServiceName = "unnamed-service"
    environment: Environment = "development"
    listen_host: str = "127.0.0.1"
    advertise_host: str = ""  # what discovery tells others; empty: listen_host
    operations_port: Port = 0
    drain_seconds: Seconds = 8.0  # the whole drain; what is not done by then is cut off
    drain_notice_seconds: Annotated[float, Field(ge=0)] = 0.5  # "not ready" is told so long before the ports close
    readiness_every_seconds: Seconds = 5.0  # how often dependencies are asked whether they answer
    bind_retry_seconds: Seconds = 5.0  # a taken port may only be somebody's outgoing connection
    git_sha: str = ""  # what was built, for promo_build_info
    test_mode: bool = False

    # logs, traces, errors
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    tracing_enabled: bool = True
    jaeger_endpoint: str = "localhost:4317"  # OTLP over gRPC
    otel_exporter_otlp_endpoint: str = ""  # wins over jaeger_endpoint
    jaeger_query_url: str = ""  # where ./promo reads traces; no process asks it
    otel_traces_sampler: Sampler = "parentbased_traceidratio"
    otel_traces_sampler_arg: Ratio = 0.1
    otel_span_link_count_limit: Count = 512  # at least the largest poll
    otel_bsp_max_export_batch_size: Count = 128  # larger ones hold the loop longer: p99 lag 5 ms at 512
    otel_bsp_max_queue_size: Count = 2048
    otel_bsp_schedule_delay: Milliseconds = 1000
    otel_bsp_export_timeout: Milliseconds = 5000
    telemetry_shutdown_seconds: Seconds = 5.0
    switch_interval_seconds: Seconds = 0.0005  # so that the exporter's thread does not hold the loop
    instrumentation: Literal["own", "stock"] = "own"
    span_names: Literal["semconv", "seed"] = "semconv"
    trace_trusted_peers: CommaList = ("127.0.0.0/8", "::1/128")
    sentry_dsn: Private = ""
    service_token_secret: str = secret("development-service-token-secret-not-for-production")
    invariant_every_seconds: Seconds = 60.0
    invariant_timeout_ms: Milliseconds = 30_000
    job_timeout_seconds: Seconds = 60.0  # one run of a background job
    job_retry_seconds_max: Seconds = 60.0  # a failing job waits longer each time, up to this or its own pace

    # HTTP servers
    http_keep_alive_seconds: Annotated[int, Field(gt=0)] = 15
    http_head_seconds: Seconds = 5.0
    http_head_bytes_max: Count = 16_384
    http_body_seconds: Seconds = 10.0
    http_body_bytes_max: Count = 65_536
    http_requests_max: Count = 2_000  # answered at once; more are refused with Retry-After
    http_connections_max: Count = 10_000  # open at once, idle ones too

    # discovery
    etcd_hosts: CommaList = ()
    etcd_lease_seconds: Count = 10
    etcd_call_seconds: Seconds = 2.0
    etcd_stream_seconds: Seconds = 300.0  # a watch is begun anew after it

    # gRPC
    rpc_inflight_max: Count = 4_000  # calls in flight in a server; more are refused as overloaded
    rpc_client_inflight_max: Count = 500  # of one gateway to one upstream
    rpc_client_wait_seconds: Seconds = 0.25
    rpc_client_queue_max: Count = 2_000  # who may wait for that
    rpc_pending_max: Count = 10_000  # calls a server has not looked at yet; with less, bursts are answered CANCELLED
    rpc_deadline_margin_ms: Milliseconds = 20  # of a call's time, kept for the way back
    rpc_deadline_min_ms: Milliseconds = 5  # with less left a call is not begun
    rpc_deadline_seconds_max: Seconds = 30.0
    rpc_message_bytes_max: Count = 4_194_304  # the 256 answers of a batch call, their texts at full length, are 2.4 MB
    rpc_keepalive_time_ms: Milliseconds = 60_000
    rpc_keepalive_timeout_ms: Milliseconds = 10_000
    rpc_connection_age_ms: Milliseconds = 300_000
    rpc_connection_age_grace_ms: Milliseconds = 10_000
    rpc_retry_budget_max: Count = 10
    rpc_retry_ratio: Ratio = 0.1
    rpc_coalesce_items_max: Count = 256
    rpc_coalesce_flights_max: Count = 2  # calls in flight for one row; what comes meanwhile waits and travels together
    rpc_coalesce_queue_max: Count = 4_096
    grpc_tls_cert: str = ""  # PEM files, all three or none; set, both sides show a certificate and plaintext is refused
    grpc_tls_key: str = ""
    grpc_tls_ca: str = ""
    service_token_seconds: Count = 300
    service_token_leeway_seconds: Count = 10
    rpc_instance_away_seconds: Seconds = 1.0  # so long an instance that did not answer is not asked
    breaker_window_seconds: Seconds = 1.5
    breaker_calls_min: Count = 10
    breaker_failure_ratio: Ratio = 0.4
    breaker_open_seconds: Seconds = 3.0

    # Redis
    redis_url: Private = "redis://127.0.0.1:6379/0"
    redis_cluster: bool = False
    redis_timeout_seconds: Seconds = 0.2
    redis_pool_size_max: Count = 64
    redis_pool_wait_seconds: Seconds = 0.05
    gate_timeout_seconds: Seconds = 0.02
    gate_ttl_ms: Milliseconds = 1_000
    view_pending_max: Count = 10_000

    # Kafka
    kafka_brokers: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    kafka_request_timeout_ms: Milliseconds = 5_000
    kafka_metadata_max_age_ms: Milliseconds = 30_000
    kafka_start_seconds: Seconds = 5.0
    kafka_send_seconds: Seconds = 5.0
    kafka_stop_seconds: Seconds = 1.0
    kafka_retry_seconds_max: Seconds = 2.0
    kafka_session_timeout_ms: Milliseconds = 10_000
    kafka_heartbeat_interval_ms: Milliseconds = 500
    kafka_max_poll_interval_ms: Milliseconds = 60_000
    kafka_poll_records_max: Count = 500
    kafka_poll_wait_ms: Milliseconds = 500

    # Postgres
    database_url: Private = ""
    pool_size_min: Count = 1
    pool_size_max: Count = 10
    pool_acquire_seconds: Seconds = 0.25
    postgres_connect_seconds: Seconds = 2.0
    postgres_command_seconds: Seconds = 2.5
    postgres_retry_seconds_max: Seconds = 2.0
    statement_timeout_ms: Milliseconds = 2_000
    lock_timeout_ms: Milliseconds = 300
    idle_in_transaction_timeout_ms: Milliseconds = 5_000


class WorkerSettings(Settings):
    """What every worker can be told: its gRPC port, its database's batches, events and retention."""

    grpc_port: Port = 0
    # The workers' own roots are relay rounds, polls and jobs; requests follow the gateway's decision.
    otel_traces_sampler_arg: Ratio = 0.01

    # group commit
    batch_lanes_max: Count = 4
    batch_size_max: Count = 512
    batch_queue_max: Count = 10_000
    batch_retry_seconds: Seconds = 0.02
    batch_deadline_margin_ms: Milliseconds = 20
    batch_drain_seconds: Seconds = 3.0

    # outbox
    relay_size_max: Count = 500
    relay_poll_seconds: Seconds = 0.2  # what this process commits is sent at once; others' rows wait so long
    relay_lock_retry_seconds: Seconds = 1.0
    relay_ping_seconds: Seconds = 1.0
    relay_idle_session_timeout_ms: Milliseconds = 5_000
    relay_measure_seconds: Seconds = 5.0
    relay_drain_seconds: Seconds = 1.0

    # consumer
    consumer_attempts_max: Count = 5
    consumer_retry_seconds: Seconds = 0.2
    consumer_handler_seconds: Seconds = 4.0  # less than idle_in_transaction_timeout_ms
    consumer_stall_seconds: Seconds = 20.0  # with records ahead and none taken for so long, it is replaced
    consumer_lag_seconds: Seconds = 5.0  # how often it is looked at
    consumer_waiting_max: Count = 5_000  # records that wait for another try, or behind one; then no more are taken

    # kept how long
    command_retention_days: Count = 7
    outbox_retention_days: Count = 7
    topic_retention_days: Count = 7
    inbox_retention_days: Annotated[int, Field(ge=8)] = 9  # longer than the topics and any replay
    dead_letter_retention_days: Count = 30
    purge_every_seconds: Seconds = 60.0
    purge_rows_max: Count = 1_000
    purge_pause_seconds: Seconds = 0.05

    @field_validator("consumer_handler_seconds")
    @classmethod
    def _ends_before_its_transaction(cls, seconds: float, given: ValidationInfo) -> float:
        """Postgres would end it first: taken for an outage, the record would be tried for ever, and hold up all."""
        idle_ms = given.data.get("idle_in_transaction_timeout_ms")
        if idle_ms is not None and seconds * 1000 >= idle_ms:
            raise ValueError(f"must be less than idle_in_transaction_timeout_ms, which is {idle_ms}")
        return seconds

    @field_validator("inbox_retention_days")
    @classmethod
    def _outlives_every_repeat(cls, days: int, given: ValidationInfo) -> int:
        """An event that comes again after its inbox row is gone would take effect again."""
        repeated = max(given.data.get(name, 0) for name in ("topic_retention_days", "outbox_retention_days"))
        if days <= repeated:
            raise ValueError(f"must be more than the {repeated} days for which an event may come again")
        return days
