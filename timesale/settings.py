"""What the timesale service can be told."""

from infra.settings import Count, Port, Seconds, WorkerSettings


class TimesaleSettings(WorkerSettings):
    """The workers' settings with this service's name, ports and own limits."""

    service_name: str = "timesale-service"
    operations_port: Port = 3003
    grpc_port: Port = 50053

    refusal_lanes_max: Count = 2  # reads at a time that check an early no
    sweep_every_seconds: Seconds = 1.0
    sweep_retry_seconds_max: Seconds = 5.0
    sweep_sales_max: Count = 500  # in one round; what is left waits for the next
    sweep_lock_seconds: Seconds = 5.0
    metric_live_sales_max: Count = 50  # sales whose stock is shown, newest first
