"""Who serves a name now: fixed addresses from the settings, or the live registrations in etcd."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from infra.discovery.instances import Instances, static
from infra.discovery.registration import Listening, Registration
from infra.discovery.watch import Watch
from infra.settings import Settings

__all__ = ["Instances", "Registration", "Watch", "announce", "find", "static"]


class Process(Protocol):
    """What runs for the life of a process, what is done first at its end, and whose health it exports."""

    def background(self, name: str, run: Callable[[], Awaitable[object]]) -> None: ...
    def on_drain(self, run: Callable[[], Awaitable[object]]) -> None: ...
    def watch(self, dependency: str, probe: Callable[[], Awaitable[bool]]) -> None: ...


def find(settings: Settings, service: str, addresses: Iterable[str], process: Process) -> Instances:
    """The instances of `service`: those registered where `etcd_hosts` is set, else these addresses."""
    if not settings.etcd_hosts:
        return static(addresses)
    watch = Watch(settings, service)
    process.background(f"watch {service}", watch.run)
    process.watch("etcd", watch.ping)
    return watch


def announce(settings: Settings, server: Listening, process: Process) -> None:
    """Register this process's server for as long as it serves, where `etcd_hosts` is set."""
    if settings.etcd_hosts:
        registration = Registration(settings, server)
        process.background("registration", registration.run)
        process.on_drain(registration.withdraw)
        process.watch("etcd", registration.ping)
