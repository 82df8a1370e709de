"""What the timesale service can be told."""

from infra.settings import Count, Port, Seconds, WorkerSettings


class TimesaleSettings(WorkerSettings):
    """The workers' settings with this service's name, ports and own limits."""

    service_name: str = "timesale-service"
    operations_port: Port = 3003
    grpc_port: Port = 50053

    refusal_lanes_max: Count = 2
    sweep_every_seconds: Seconds = 1.0
    sweep_sales_max: Count = 500
    sweep_lock_seconds: Seconds = 5.0
    metric_live_sales_max: Count = 50
