"""Events are rows first: written in the transaction of their change, sent by a relay afterwards."""

from infra.outbox.relay import Relay
from infra.outbox.rows import Row, add, add_rows, replay

__all__ = ["Relay", "Row", "add", "add_rows", "replay"]
