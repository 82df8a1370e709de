"""The platform's metrics, each declared once: what every door, driver and background job counts.

A service's own stand in its `metrics.py`. Names follow the semantic conventions, `_` for `.`, unit last. `error_type`
is empty on success and comes from a closed set.
"""

from infra.telemetry.metrics import B1, B2, B2_FINE, DELIVERY, LAG, SIZES, counter, gauge, histogram

# HTTP
HTTP_REQUEST_SECONDS = histogram(
    "http_server_request_duration_seconds",
    "Time from a request's head to its answer's last byte.",
    ["http_request_method", "http_route", "http_response_status_code", "error_type"],
    B1,
)
HTTP_ACTIVE = gauge("http_server_active_requests", "Requests being answered.")

# gRPC
RPC_CLIENT_SECONDS = histogram(
    "rpc_client_call_duration_seconds",
    "Time of a call as its caller sees it, waits included.",
    ["rpc_method", "rpc_response_status_code", "error_type", "server_address"],
    B1,
)
RPC_SERVER_SECONDS = histogram(
    "rpc_server_call_duration_seconds",
    "Time of a call, or of one item of a batch call, in the server.",
    ["rpc_method", "rpc_response_status_code", "error_type"],
    B1,
)
RPC_INFLIGHT = gauge("promo_rpc_inflight", "Calls in flight in this server.")
RPC_INFLIGHT_MAX = gauge("promo_rpc_inflight_max", "Calls in flight above which this server refuses.")
RPC_REJECTED = counter("promo_rpc_rejected", "Calls refused because too many were in flight.", ["rpc_method"])
UPSTREAM_INFLIGHT = gauge("promo_upstream_inflight", "Calls in flight to an upstream.", ["upstream"])
UPSTREAM_INFLIGHT_MAX = gauge("promo_upstream_inflight_max", "Calls in flight an upstream is given.", ["upstream"])
BREAKER_STATE = gauge("promo_breaker_state", "1 for the state the breaker is in.", ["upstream", "state"])
BREAKER_TRANSITIONS = counter("promo_breaker_transitions", "Changes of a breaker's state.", ["upstream", "to"])
BREAKER_REJECTED = counter("promo_breaker_rejected", "Calls an open breaker refused.", ["upstream"])

# discovery
DISCOVERY_INSTANCES = gauge("promo_discovery_instances", "Live instances of an upstream.", ["upstream"])
DISCOVERY_LEASE_OK = gauge("promo_discovery_lease_ok", "1 while this process is registered.")
DISCOVERY_EVENTS = counter("promo_discovery_events", "Changes and troubles of the discovery.", ["event"])

# Postgres, Redis
DB_SECONDS = histogram(
    "db_client_operation_duration_seconds",
    "Time of one statement or command.",
    [
        "db_system_name",
        "db_namespace",
        "db_operation_name",
        "db_query_summary",
        "db_response_status_code",
        "error_type",
    ],
    B2_FINE,
)
POOL_COUNT = gauge(
    "db_client_connection_count",
    "Connections of a pool by state (idle, used).",
    ["db_client_connection_pool_name", "db_client_connection_state"],
)
POOL_MAX = gauge("db_client_connection_max", "Connections a pool may have.", ["db_client_connection_pool_name"])
POOL_PENDING = gauge(
    "db_client_connection_pending_requests", "Who waits for a connection.", ["db_client_connection_pool_name"]
)
POOL_TIMEOUTS = counter(
    "db_client_connection_timeouts", "Waits for a connection that were given up.", ["db_client_connection_pool_name"]
)
POOL_WAIT_SECONDS = histogram(
    "db_client_connection_wait_time_seconds",
    "Time until a connection was free.",
    ["db_client_connection_pool_name"],
    B2,
)
POOL_USE_SECONDS = histogram(
    "db_client_connection_use_time_seconds",
    "Time a connection was out of its pool.",
    ["db_client_connection_pool_name"],
    B2,
)
POOL_CREATE_SECONDS = histogram(
    "db_client_connection_create_time_seconds",
    "Time to open a connection.",
    ["db_client_connection_pool_name"],
    B2,
)
GATE_REQUESTS = counter(
    "promo_gate_requests",
    "What the gate said (passed, refused, overruled, missing, error).",
    ["gate_name", "result"],
)
CACHE_REQUESTS = counter("promo_cache_requests", "What the cache said (hit, miss, error).", ["cache_name", "result"])
LOCK_ACQUIRE_SECONDS = histogram(
    "promo_lock_acquire_seconds", "Time to get a Redis lock, or not.", ["lock_name", "result"], B2
)
LOCK_HOLD_SECONDS = histogram("promo_lock_hold_seconds", "Time a Redis lock was held.", ["lock_name", "result"], B2)
LOCK_LOST = counter("promo_lock_lost", "Locks that ran out before they were given back.", ["lock_name"])

# group commit
BATCH_SIZE = histogram("promo_batch_size", "Requests that share a commit or a call.", ["batch_name"], SIZES)
BATCH_WAIT_SECONDS = histogram("promo_batch_wait_seconds", "Time a request waited for its batch.", ["batch_name"], B2)
BATCH_COMMIT_SECONDS = histogram("promo_batch_commit_seconds", "Time of a batch's transaction.", ["batch_name"], B2)
BATCH_QUEUE_DEPTH = gauge("promo_batch_queue_depth", "Requests waiting, all lanes.", ["batch_name"])
BATCH_REJECTED = counter("promo_batch_rejected", "Requests refused because the queue was full.", ["batch_name"])
BATCH_RETRIES = counter("promo_batch_retries", "Runs repeated or halved, by SQLSTATE.", ["batch_name", "error_type"])
IDEMPOTENCY_REQUESTS = counter(
    "promo_idempotency_requests", "Commands by what was known of them (new, replayed, reused).", ["result"]
)

# Kafka
MESSAGING_SECONDS = histogram(
    "messaging_client_operation_duration_seconds",
    "Time of one send, poll or commit.",
    ["messaging_operation_name", "messaging_destination_name", "messaging_consumer_group_name", "error_type"],
    B1,
)
MESSAGING_PROCESS_SECONDS = histogram(
    "messaging_process_duration_seconds",
    "Time to process a record, its share of the poll's transaction included.",
    ["messaging_operation_name", "messaging_destination_name", "messaging_consumer_group_name", "error_type"],
    B1,
)
MESSAGES_SENT = counter("messaging_client_sent_messages", "Records sent.", ["messaging_destination_name", "error_type"])
MESSAGES_CONSUMED = counter(
    "messaging_client_consumed_messages",
    "Records taken.",
    ["messaging_destination_name", "messaging_consumer_group_name", "error_type"],
)
EVENT_DELIVERY_SECONDS = histogram(
    "promo_event_delivery_seconds",
    "Time from an event's commit to its effect's.",
    ["messaging_destination_name", "messaging_consumer_group_name"],
    DELIVERY,
)
CONSUMER_LAG_MESSAGES = gauge(
    "promo_kafka_consumer_lag_messages",
    "Records behind the end of a partition.",
    ["messaging_destination_name", "messaging_destination_partition_id", "messaging_consumer_group_name"],
)
CONSUMER_LAG_SECONDS = gauge(
    "promo_kafka_consumer_lag_seconds",
    "Age of the oldest record that is not processed.",
    ["messaging_destination_name", "messaging_destination_partition_id", "messaging_consumer_group_name"],
)
ASSIGNED_PARTITIONS = gauge(
    "promo_kafka_assigned_partitions", "Partitions this consumer has.", ["messaging_consumer_group_name"]
)
REBALANCES = counter("promo_kafka_rebalances", "Changes of the assignment.", ["messaging_consumer_group_name"])
EVENT_RETRIES = counter(
    "promo_event_retries",
    "Records tried again.",
    ["messaging_destination_name", "messaging_consumer_group_name", "error_type"],
)
DEAD_LETTERS = counter(
    "promo_dead_letters",
    "Records given up.",
    ["messaging_destination_name", "messaging_consumer_group_name", "error_type"],
)
INBOX_DUPLICATES = counter(
    "promo_inbox_duplicates",
    "Records that had been processed before.",
    ["messaging_destination_name", "messaging_consumer_group_name"],
)
OUTBOX_PENDING = gauge("promo_outbox_pending", "Events that are not sent yet.")
OUTBOX_OLDEST_SECONDS = gauge("promo_outbox_oldest_seconds", "Age of the oldest event that is not sent.")
OUTBOX_RELAY_ACTIVE = gauge("promo_outbox_relay_active", "1 in the process whose relay holds the lock.")
OUTBOX_DELAY_SECONDS = histogram(
    "promo_outbox_publish_delay_seconds",
    "Time from an event's commit to its ack.",
    ["messaging_destination_name"],
    DELIVERY,
)

# the process
DEPENDENCY_UP = gauge("promo_dependency_up", "1 while a dependency answers.", ["dependency"])
INVARIANT_VIOLATIONS = gauge("promo_invariant_violations", "Rows that break an invariant.", ["invariant"])
INVARIANT_CHECKED = gauge(
    "promo_invariant_last_check_timestamp_seconds", "When an invariant was checked last.", ["invariant"]
)
JOB_LAST_SUCCESS = gauge(
    "promo_job_last_success_timestamp_seconds", "When a background job did its work last.", ["job_name"]
)
JOB_SECONDS = histogram("promo_job_duration_seconds", "Time of one run of a background job.", ["job_name"], B1)
JOB_ERRORS = counter("promo_job_errors", "Runs of a background job that failed.", ["job_name", "error_type"])
LOOP_LAG_SECONDS = histogram("promo_event_loop_lag_seconds", "How late the loop wakes a timer.", [], LAG)
MEMORY_LIMIT_BYTES = gauge("promo_process_memory_limit_bytes", "Memory the process may use; 0: no limit is known.")
SPANS_DROPPED = counter("promo_telemetry_spans_dropped", "Spans lost: full queue, failed export, shut down.")
SPAN_EXPORT_FAILURES = counter("promo_telemetry_span_export_failures", "Exports the trace backend did not take.")
SPAN_QUEUE = gauge("promo_telemetry_span_queue", "Spans waiting for their export.")
LOG_LINES = counter("promo_log_lines", "Log lines written.", ["level"])
BUILD_INFO = gauge("promo_build_info", "1, with what runs here.", ["service_version", "git_sha", "semconv_schema"])
