"""What the point service can be told."""

from infra.settings import Milliseconds, Port, WorkerSettings


class PointSettings(WorkerSettings):
    """The workers' settings with this service's name, ports and own limits."""

    service_name: str = "point-service"
    operations_port: Port = 3002
    grpc_port: Port = 50052

    balance_ttl_ms: Milliseconds = 300_000
    balance_tombstone_ms: Milliseconds = 5_000  # longer than any statement may take
