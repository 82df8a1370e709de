"""The live instances of a service, as its callers see them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Instances(Protocol):
    """Where a service is served. The tuple is a new object after each change, and only then."""

    def current(self) -> tuple[str, ...]:
        """The addresses, `host:port`; empty while nobody is known."""


@dataclass(frozen=True, slots=True)
class Static:
    """Addresses that never change."""

    addresses: tuple[str, ...]

    def current(self) -> tuple[str, ...]:
        return self.addresses


def static(addresses: Iterable[str]) -> Static:
    """The instances named in the settings."""
    return Static(tuple(addresses))
