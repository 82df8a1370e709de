"""Tells others where this process serves: a key under a lease that is kept alive, written again when it was lost."""

import asyncio
import random
from typing import Protocol

import orjson

from infra import logs
from infra.discovery.etcd import Etcd, reason
from infra.errors import Unavailable
from infra.settings import Settings
from infra.telemetry import instruments

BEATS = 3  # of a lease's life; two may be lost
RETRY_SECONDS_MAX = 1.0

LOST, AGAIN = (instruments.DISCOVERY_EVENTS.labels(event) for event in ("lease_lost", "reregistered"))
log = logs.get_logger(__name__)


class Listening(Protocol):
    """A server that will listen."""

    async def listening(self) -> int: ...


class Registration:
    """This instance's entry, `/services/{name}/{host}:{port}`."""

    def __init__(self, settings: Settings, server: Listening) -> None:
        self._name = settings.service_name
        self._host = settings.advertise_host or settings.listen_host
        self._ttl_seconds = settings.etcd_lease_seconds
        self._call_seconds = settings.etcd_call_seconds
        self._etcd = Etcd(settings)
        self.ping = self._etcd.ping
        self._server = server
        self._lease = 0
        self._away = False
        self._withdrawn = asyncio.Event()

    async def run(self) -> None:
        """Register once the server listens, and stay registered; a background task."""
        port = await self._server.listening()
        try:
            await self._stay(f"/services/{self._name}/{self._host}:{port}", _entry(self._host, port))
        finally:
            await self._etcd.close()

    async def withdraw(self) -> None:
        """Leave at once instead of when the lease ends; what fails here the lease makes good."""
        self._withdrawn.set()
        instruments.DISCOVERY_LEASE_OK.set(0)
        if self._lease:
            try:
                async with asyncio.timeout(self._call_seconds):
                    await self._etcd.revoke(self._lease)
            except (Unavailable, TimeoutError):
                log.warning("discovery.not_withdrawn", service=self._name)

    async def _stay(self, key: str, value: bytes) -> None:
        while not self._withdrawn.is_set():
            try:
                lease = await self._etcd.grant(self._ttl_seconds)
                await self._etcd.put(key, value, lease)
            except Unavailable as error:
                if not self._away:  # one line per outage
                    log.warning("discovery.etcd_away", service=self._name, cause=reason(error))
                self._away = True
                await self._pause(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311 - spreads calls, guards nothing
                continue
            if self._lease:
                AGAIN.inc()
            self._lease, self._away = lease, False
            instruments.DISCOVERY_LEASE_OK.set(1)
            log.info("discovery.registered", key=key)
            await self._keep(lease)
        await asyncio.Event().wait()

    async def _keep(self, lease: int) -> None:
        """Return when the lease is gone."""
        now = asyncio.get_running_loop().time
        ends = now() + self._ttl_seconds
        while not self._withdrawn.is_set():
            await self._pause(self._ttl_seconds / BEATS)
            try:
                seconds = await self._etcd.keep_alive(lease)
            except Unavailable:
                seconds = 0 if now() >= ends else -1  # -1: it may live, nobody could tell
            if seconds > 0:
                ends = now() + seconds
            elif seconds == 0 and not self._withdrawn.is_set():
                LOST.inc()
                instruments.DISCOVERY_LEASE_OK.set(0)
                log.warning("discovery.lease_lost", service=self._name)
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, but not when it is time to leave."""
        try:
            async with asyncio.timeout(seconds):
                await self._withdrawn.wait()
        except TimeoutError:
            return


def _entry(host: str, port: int) -> bytes:
    return orjson.dumps({"host": host, "port": port, "protocol": "grpc"})
