"""What both ends of a connection are told: the options of a channel and a server, and mutual TLS where it is set."""

from pathlib import Path
from typing import Any, TypeAlias

import grpc

from infra.errors import StartFailed
from infra.settings import Settings

Options: TypeAlias = list[tuple[str, int]]

RECONNECT_MS = 100
# A worker that is back is found at once: at one second both tries of a call failed during a rolling restart, as the
# other instance was told to end while the channel to the one just started still waited for its next attempt.
RECONNECT_MS_MAX = 200
PING_INTERVAL_MS_MIN = 30_000


def channel_options(settings: Settings) -> Options:
    """Of a client's channel: no retries but ours, pings also while idle, a quick way back."""
    return [
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_time_ms", settings.rpc_keepalive_time_ms),
        ("grpc.keepalive_timeout_ms", settings.rpc_keepalive_timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ("grpc.max_receive_message_length", settings.rpc_message_bytes_max),
        # Two upstreams of one process, or a fresh one after a restart, must not share a broken connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def server_options(settings: Settings) -> Options:
    """Of a server: the port is its own alone, bursts wait instead of being cancelled, connections are renewed."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.server.max_pending_requests", settings.rpc_pending_max),
        ("grpc.server.max_pending_requests_hard_limit", settings.rpc_pending_max * 2),
        ("grpc.keepalive_time_ms", settings.rpc_keepalive_time_ms),
        ("grpc.keepalive_timeout_ms", settings.rpc_keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
        ("grpc.max_connection_age_ms", settings.rpc_connection_age_ms),
        ("grpc.max_connection_age_grace_ms", settings.rpc_connection_age_grace_ms),
        ("grpc.max_receive_message_length", settings.rpc_message_bytes_max),
        ("grpc.max_send_message_length", settings.rpc_message_bytes_max),
    ]


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """The client's certificate and whom it believes; None: plaintext. :raises StartFailed: half set, or unreadable."""
    if not (settings.grpc_tls_cert or settings.grpc_tls_key or settings.grpc_tls_ca):
        return None
    cert, key, ca = _files(settings)
    return grpc.ssl_channel_credentials(ca, key, cert)


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The server's certificate, and clients must show one; None: plaintext. :raises StartFailed: as above."""
    if not (settings.grpc_tls_cert or settings.grpc_tls_key or settings.grpc_tls_ca):
        return None
    cert, key, ca = _files(settings)
    return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)


def client_interceptors(settings: Settings) -> list[Any]:
    """The stock instrumentation where it is asked for; else the calls tell of themselves."""
    if settings.instrumentation == "own":
        return []
    from opentelemetry.instrumentation.grpc import aio_client_interceptors  # only where it is used: it costs a start

    found: list[Any] = aio_client_interceptors()  # type: ignore[no-untyped-call]  # the package has no annotations
    return found


def server_interceptors(settings: Settings) -> list[Any]:
    """The stock instrumentation where it is asked for."""
    if settings.instrumentation == "own":
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor  # only where it is used: it costs a start

    return [aio_server_interceptor()]  # type: ignore[no-untyped-call]  # the package has no annotations


def _files(settings: Settings) -> tuple[bytes, bytes, bytes]:
    """Certificate, key and authority."""
    cert, key, ca = settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_ca
    if not (cert and key and ca):
        raise StartFailed("GRPC_TLS_CERT, GRPC_TLS_KEY and GRPC_TLS_CA: set all three or none")
    try:
        return Path(cert).read_bytes(), Path(key).read_bytes(), Path(ca).read_bytes()
    except OSError as error:
        raise StartFailed(f"GRPC_TLS_CERT, GRPC_TLS_KEY, GRPC_TLS_CA: {error}") from error
