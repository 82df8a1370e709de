"""The names of span attributes: those of the semantic conventions (schema 1.44.0), then the platform's own.

A service's own names stand in its `metrics.py`. Spans, logs and tests use these constants, never a literal.
"""

from hashlib import sha256

from opentelemetry.semconv._incubating.attributes import (
    db_attributes,
    deployment_attributes,
    host_attributes,
    messaging_attributes,
    process_attributes,
    rpc_attributes,
    service_attributes,
    user_attributes,
)
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    exception_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
    user_agent_attributes,
)
from opentelemetry.semconv.schemas import Schemas

SCHEMA_URL = Schemas.V1_44_0.value

# resource
SERVICE_NAME = service_attributes.SERVICE_NAME
SERVICE_NAMESPACE = service_attributes.SERVICE_NAMESPACE
SERVICE_VERSION = service_attributes.SERVICE_VERSION
SERVICE_INSTANCE_ID = service_attributes.SERVICE_INSTANCE_ID
DEPLOYMENT_ENVIRONMENT_NAME = deployment_attributes.DEPLOYMENT_ENVIRONMENT_NAME
HOST_NAME = host_attributes.HOST_NAME
PROCESS_PID = process_attributes.PROCESS_PID

# any span
ERROR_TYPE = error_attributes.ERROR_TYPE
EXCEPTION_TYPE = exception_attributes.EXCEPTION_TYPE
EXCEPTION_MESSAGE = exception_attributes.EXCEPTION_MESSAGE
EXCEPTION_STACKTRACE = exception_attributes.EXCEPTION_STACKTRACE
SERVER_ADDRESS = server_attributes.SERVER_ADDRESS
SERVER_PORT = server_attributes.SERVER_PORT
CLIENT_ADDRESS = client_attributes.CLIENT_ADDRESS
USER_ID = user_attributes.USER_ID
USER_HASH = user_attributes.USER_HASH

# HTTP
HTTP_REQUEST_METHOD = http_attributes.HTTP_REQUEST_METHOD
HTTP_ROUTE = http_attributes.HTTP_ROUTE
HTTP_RESPONSE_STATUS_CODE = http_attributes.HTTP_RESPONSE_STATUS_CODE
URL_PATH = url_attributes.URL_PATH
URL_SCHEME = url_attributes.URL_SCHEME
USER_AGENT_ORIGINAL = user_agent_attributes.USER_AGENT_ORIGINAL

# gRPC
RPC_SYSTEM_NAME = rpc_attributes.RPC_SYSTEM_NAME
RPC_METHOD = rpc_attributes.RPC_METHOD
RPC_RESPONSE_STATUS_CODE = rpc_attributes.RPC_RESPONSE_STATUS_CODE

# Postgres, Redis
DB_SYSTEM_NAME = db_attributes.DB_SYSTEM_NAME
DB_NAMESPACE = db_attributes.DB_NAMESPACE
DB_OPERATION_NAME = db_attributes.DB_OPERATION_NAME
DB_OPERATION_BATCH_SIZE = db_attributes.DB_OPERATION_BATCH_SIZE
DB_COLLECTION_NAME = db_attributes.DB_COLLECTION_NAME
DB_QUERY_TEXT = db_attributes.DB_QUERY_TEXT
DB_QUERY_SUMMARY = db_attributes.DB_QUERY_SUMMARY
DB_RESPONSE_STATUS_CODE = db_attributes.DB_RESPONSE_STATUS_CODE
DB_STORED_PROCEDURE_NAME = db_attributes.DB_STORED_PROCEDURE_NAME

# Kafka
MESSAGING_SYSTEM = messaging_attributes.MESSAGING_SYSTEM
MESSAGING_OPERATION_NAME = messaging_attributes.MESSAGING_OPERATION_NAME
MESSAGING_OPERATION_TYPE = messaging_attributes.MESSAGING_OPERATION_TYPE
MESSAGING_DESTINATION_NAME = messaging_attributes.MESSAGING_DESTINATION_NAME
MESSAGING_DESTINATION_PARTITION_ID = messaging_attributes.MESSAGING_DESTINATION_PARTITION_ID
MESSAGING_KAFKA_OFFSET = messaging_attributes.MESSAGING_KAFKA_OFFSET
MESSAGING_KAFKA_MESSAGE_KEY = messaging_attributes.MESSAGING_KAFKA_MESSAGE_KEY
MESSAGING_CONSUMER_GROUP_NAME = messaging_attributes.MESSAGING_CONSUMER_GROUP_NAME
MESSAGING_CLIENT_ID = messaging_attributes.MESSAGING_CLIENT_ID
MESSAGING_MESSAGE_ID = messaging_attributes.MESSAGING_MESSAGE_ID
MESSAGING_BATCH_MESSAGE_COUNT = messaging_attributes.MESSAGING_BATCH_MESSAGE_COUNT

# the platform's own
OPERATION = "promo.operation"  # the seed name of the moment, always set: `pg.query INSERT coupon`
OUTCOME = "promo.outcome"  # ok, refused, error, cancelled; on SERVER and CONSUMER spans
REFUSAL_CODE = "promo.refusal.code"
REPLAYED = "promo.replayed"
PARTIAL = "promo.partial"
ATTEMPT = "promo.attempt"
DEADLINE_MS = "promo.deadline_ms"
COMMAND_ID = "promo.command.id"
REQUEST_ID = "promo.request.id"
QUERY = "promo.query"  # the query's name on its SQL page
POOL_WAIT_MS = "promo.pool.wait_ms"
CACHE_HIT = "promo.cache.hit"
GATE = "promo.gate"  # passed, refused, overruled, missing, error
LINK = "promo.link"  # on a link: batch, rpc, relay, send
BATCH_SIZE = "promo.batch.size"
BATCH_ROLE = "promo.batch.role"  # leader, member
BATCH_TRY = "promo.batch.try"
BATCH_WAIT_MS = "promo.batch.wait_ms"
BATCH_COMMIT_MS = "promo.batch.commit_ms"
BATCH_SHARED = "promo.batch.shared"
RPC_BATCH_SIZE = "promo.rpc.batch.size"
RPC_WAIT_MS = "promo.rpc.batch.wait_ms"
OUTBOX_AGE_MS = "promo.outbox.age_ms"
QUEUE_TIME_MS = "promo.messaging.queue_time_ms"
DUPLICATE = "promo.duplicate"
LOCK_WAIT_MS = "promo.lock.wait_ms"


def user(user_id: str) -> dict[str, str]:
    """The attribute that says who: the id, or its hash where it looks like an e-mail address."""
    if "@" in user_id:
        return {USER_HASH: sha256(user_id.encode()).hexdigest()[:16]}
    return {USER_ID: user_id}
