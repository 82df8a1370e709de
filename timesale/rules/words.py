"""The words of a time sale: its statuses, refusals and records.

Money is in the smallest unit, up to 2^53-1, the largest integer every JSON reader keeps whole; quantities up to 10^9.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from infra.caller import Command
from infra.errors import Kind, Refused

MONEY_MAX = 2**53 - 1
UNITS_MAX = 10**9


class SaleStatus(StrEnum):
    """Moved by time and stock; what ended stays ended."""

    SCHEDULED = "SCHEDULED"
    ACTIVE = "ACTIVE"
    SOLD_OUT = "SOLD_OUT"
    ENDED = "ENDED"


class OrderStatus(StrEnum):
    """An order is born COMPLETED; the others wait for a payment step."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class NotActive(Refused):
    """The sale's window is not open: not yet (then `retry_at` is its start) or no longer."""

    kind, code = Kind.STATE, "NOT_ACTIVE"


class SoldOut(Refused):
    """No unit is left."""

    kind, code = Kind.STATE, "SOLD_OUT"


class InsufficientStock(Refused):
    """Some units are left, fewer than asked for."""

    kind, code = Kind.STATE, "INSUFFICIENT_STOCK"


class UserLimit(Refused):
    """The user would have more units of this sale than one user may have."""

    kind, code = Kind.STATE, "USER_LIMIT"


@dataclass(frozen=True, slots=True)
class Product:
    """What is sold; it never changes. `price` is its usual price."""

    id: int
    name: str
    price: int
    description: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Stock:
    """A sale's counters, in units. `version` grows whenever one of them moves."""

    remaining: int
    held: int
    sold: int
    last_queue_number: int
    version: int

    def sell(self, quantity: int) -> "Stock":
        """The counters after one order of `quantity` units."""
        return Stock(
            self.remaining - quantity, self.held, self.sold + quantity, self.last_queue_number + 1, self.version
        )


@dataclass(frozen=True, slots=True)
class Sale:
    """A quantity of one product at a price, in a window. `status` is the stored one; `status_at` is the true one."""

    id: int
    product_id: int
    quantity: int
    discount_price: int
    start_at: datetime
    end_at: datetime
    status: SaleStatus
    created_at: datetime
    per_user_limit: int | None
    reward_points: int
    stock: Stock


@dataclass(frozen=True, slots=True)
class Listing:
    """A sale with its product, as clients see it: the status is the one of the moment it was read."""

    sale: Sale
    product: Product


@dataclass(frozen=True, slots=True)
class SaleTerms:
    """What an operator asks for when setting up a sale."""

    product_id: int
    quantity: int
    discount_price: int
    start_at: datetime
    end_at: datetime
    per_user_limit: int | None
    reward_points: int


@dataclass(frozen=True, slots=True)
class Order:
    """Units sold. `queue_number` is its place in the sale: 1-based, without gaps."""

    id: int
    time_sale_id: int
    user_id: str
    quantity: int
    status: OrderStatus
    queue_number: int
    created_at: datetime
    hold_id: int | None
    unit_price: int
    total_price: int
    reward_points: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One demand for units. `traceparent` and `tracestate` are the demand's own, for the event it makes."""

    command: Command
    time_sale_id: int
    user_id: str
    quantity: int
    traceparent: str | None = None
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a claim buys: everything of the order but the row's id and time."""

    claim: Claim
    queue_number: int
    unit_price: int
    total_price: int
    reward_points: int
