"""What each of the servers looks like to who started it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.local.child import Child


def nothing() -> None:
    """The tidying of a server that leaves nothing behind."""


@dataclass(frozen=True)
class Server:
    """A server that answers. `url` is what its clients are given; Kafka's and etcd's is `host:port`."""

    url: str
    child: Child
    tidy: Callable[[], None] = nothing

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def log(self) -> Path:
        return self.child.log

    async def stop(self) -> None:
        """End it cleanly, by force after its limit. A second call does nothing."""
        await self.child.stop()
        self.tidy()
