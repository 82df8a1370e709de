"""Follows who serves a name. While etcd is away the last known instances stay: they are likely still there."""

import asyncio
import random
from collections.abc import Iterable

import orjson

from infra import logs
from infra.discovery.etcd import Change, Etcd, reason
from infra.errors import Unavailable
from infra.settings import Settings
from infra.telemetry import instruments

RETRY_SECONDS_MAX = 1.0

PUT, DELETE, ERROR = (instruments.DISCOVERY_EVENTS.labels(event) for event in ("put", "delete", "watch_error"))
log = logs.get_logger(__name__)


class Watch:
    """The instances registered as `/services/{service}/...`."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._service = service
        self._prefix = f"/services/{service}/"
        self._etcd = Etcd(settings)
        self.ping = self._etcd.ping
        self._lease_seconds = settings.etcd_lease_seconds
        self._known: dict[str, str] = {}
        self._current: tuple[str, ...] = ()
        self._gauge = instruments.DISCOVERY_INSTANCES.labels(service)
        self._away = False

    def current(self) -> tuple[str, ...]:
        """The addresses, `host:port`."""
        return self._current

    async def run(self) -> None:
        """Follow the registrations; a background task."""
        try:
            while True:
                try:
                    await self._follow()
                except Unavailable as error:
                    self._lost(error)
                    await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311 - spreads calls only
        finally:
            await self._etcd.close()

    async def _follow(self) -> None:
        """Read what is there, then what changes from the next revision on: nothing falls in between."""
        revision, pairs = await self._etcd.read(self._prefix)
        self._away = False
        if not pairs and self._current:
            # An etcd that lost its data knows nobody for a moment; whoever lives is back within a lease.
            await asyncio.sleep(self._lease_seconds)
            revision, pairs = await self._etcd.read(self._prefix)
        self._known = {}
        self._apply(Change(key, value) for key, value in pairs.items())
        async for changes in self._etcd.watch(self._prefix, revision + 1):
            self._apply(changes)

    def _apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            address = None if change.value is None else _address(change.value)
            if address is None:
                self._known.pop(change.key, None)
                DELETE.inc()
            else:
                self._known[change.key] = address
                PUT.inc()
        found = tuple(sorted(self._known.values()))
        if found != self._current:
            self._current = found
            self._gauge.set(len(found))
            log.info("discovery.instances", upstream=self._service, instances=list(found))

    def _lost(self, error: Unavailable) -> None:
        ERROR.inc()
        if not self._away:  # one line per outage
            log.warning("discovery.etcd_away", upstream=self._service, cause=reason(error))
        self._away = True


def _address(entry: bytes) -> str | None:
    """`host:port` of an entry; None for one that is none of ours."""
    try:
        found = orjson.loads(entry)
        return f"{found['host']}:{int(found['port'])}"
    except (ValueError, TypeError, KeyError):
        log.warning("discovery.bad_entry", entry=entry[:200].decode(errors="replace"))
        return None
