"""What the gateway can be told, beside what every process can be told."""

from typing import Annotated

from pydantic import Field

from infra.settings import CommaList, Count, Duration, Milliseconds, Port, Seconds, ServiceName, Settings, secret


class GatewaySettings(Settings):
    """Settings of the API gateway."""

    service_name: ServiceName = "api-gateway"
    port: Port = 4000
    operations_port: Port = 4001
    request_deadline_seconds: Seconds = 2.0  # from the end of the head to the answer; flows down to the last statement

    # users' tokens and passwords
    jwt_secret: str = secret("development-jwt-secret-not-for-production-use")
    jwt_expiration: Duration = 86_400
    token_cache_size_max: Count = 10_000
    password_threads_max: Count = 2  # 16 MiB and 40 ms of a core each
    password_queue_max: Count = 32

    # rate limits
    throttle_ttl: Milliseconds = 60_000
    throttle_limit: Count = 100
    auth_throttle_ttl: Milliseconds = 60_000  # register and login, each, by client address
    auth_throttle_limit: Count = 20
    throttle_timeout_seconds: Seconds = 0.05
    throttle_away_seconds: Seconds = 1.0  # so long a failing Redis is not asked
    throttle_local_buckets_max: Count = 10_000
    trusted_proxy_hops: Annotated[int, Field(ge=0, le=10)] = 0  # of X-Forwarded-For, counted from its end

    # upstreams
    coupon_addresses: CommaList = ("127.0.0.1:50051",)
    point_addresses: CommaList = ("127.0.0.1:50052",)
    timesale_addresses: CommaList = ("127.0.0.1:50053",)
    coalesce_rpc: bool = True
    health_check_seconds: Seconds = 0.5
    wallet_part_seconds: Seconds = 1.0  # a worker that has not answered by then is missing in the wallet
