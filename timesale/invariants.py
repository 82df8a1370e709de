"""What must always be true of sales and orders; each query returns what breaks it."""

from infra.invariants import Invariant
from timesale.store import SQL

INVARIANTS = [
    Invariant(
        "timesale_units_conserved",
        "a sale's remaining, held and sold units are its quantity, and none is negative",
        SQL["invariant_units_conserved"],
    ),
    Invariant(
        "timesale_sold_matches_orders",
        "a sale's sold units are the sum of its orders",
        SQL["invariant_units_are_orders"],
    ),
    Invariant(
        "timesale_buyers_match_orders",
        "a buyer's units are the sum of the user's orders in the sale",
        SQL["invariant_buyers_are_orders"],
    ),
    Invariant(
        "timesale_buyers_within_limit",
        "no buyer has more units than the sale allows one user",
        SQL["invariant_buyers_within_limit"],
    ),
    Invariant(
        "timesale_queue_numbers_without_gaps",
        "a sale's n orders carry the queue numbers 1 to n",
        SQL["invariant_queue_numbers_without_gaps"],
    ),
    Invariant(
        "timesale_each_order_has_its_event",
        "each order of the last days has exactly one order.created, and no other order has one",
        SQL["invariant_each_order_has_its_event"],
    ),
    Invariant(
        "timesale_each_sale_has_its_events",
        "each sale of the last days was announced once and told its passages",
        SQL["invariant_each_sale_has_its_events"],
    ),
]
