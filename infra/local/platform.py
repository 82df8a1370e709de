"""The one table of what the local stack must know of the platform it runs; everything else in it is any platform's."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One of the four processes. `name` is its module and the prefix of its settings."""

    name: str
    service: str
    database: str
    ports: Mapping[str, int]  # the setting's name and the usual port
    public: str  # the setting of the port its clients use
    consumes: bool = False  # it starts when the topics are there

    @property
    def prefix(self) -> str:
        return f"{self.name.upper()}_"

    @property
    def addresses(self) -> str:
        """The setting by which the edge is told where this worker's instances are."""
        return f"{self.prefix}ADDRESSES"


OPERATIONS = "OPERATIONS_PORT"
EDGE = Process("gateway", "api-gateway", "gateway_db", {"PORT": 4000, OPERATIONS: 4001}, public="PORT")
WORKERS = (
    Process("coupon", "coupon-service", "coupon_db", {"GRPC_PORT": 50051, OPERATIONS: 3001}, public="GRPC_PORT"),
    Process(
        "point", "point-service", "point_db", {"GRPC_PORT": 50052, OPERATIONS: 3002}, public="GRPC_PORT", consumes=True
    ),
    Process("timesale", "timesale-service", "timesale_db", {"GRPC_PORT": 50053, OPERATIONS: 3003}, public="GRPC_PORT"),
)
PROCESSES = (EDGE, *WORKERS)

# Each topic and the process whose outbox feeds it.
TOPICS = {
    "coupon.issued": "coupon",
    "coupon.used": "coupon",
    "coupon.canceled": "coupon",
    "coupon.expired": "coupon",
    "point.earned": "point",
    "point.spent": "point",
    "point.canceled": "point",
    "timesale.created": "timesale",
    "timesale.started": "timesale",
    "timesale.ended": "timesale",
    "timesale.soldout": "timesale",
    "timesale.resumed": "timesale",
    "order.created": "timesale",
}
PARTITIONS = 12
DEAD_LETTERS = ".dlq"
DEAD_LETTER_PARTITIONS = 3

# Each consumer group and the process it runs in.
GROUPS = {"point-service": "point"}

TOKEN_AUDIENCE = "promo-api"  # noqa: S105 - a name
ROLES = ("user", "admin", "service")


def topic_partitions() -> dict[str, int]:
    """Every topic the platform needs, with its number of partitions."""
    events = dict.fromkeys(TOPICS, PARTITIONS)
    return events | {f"{topic}{DEAD_LETTERS}": DEAD_LETTER_PARTITIONS for topic in TOPICS}
