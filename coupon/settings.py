"""What the coupon service can be told."""

from infra.settings import Count, Port, Seconds, WorkerSettings


class CouponSettings(WorkerSettings):
    """The workers' settings with this service's name, ports and own limits."""

    service_name: str = "coupon-service"
    operations_port: Port = 3001
    grpc_port: Port = 50051

    refusal_lanes_max: Count = 2
    expire_every_seconds: Seconds = 1.0
    expire_rows_max: Count = 500
    expire_rounds_max: Count = 20  # in one run; what is left waits for the next
    expire_lock_seconds: Seconds = 10.0
