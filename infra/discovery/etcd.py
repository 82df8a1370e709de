"""The little of etcd we use, over all its members: the one that answered last is asked first.

Every call has a limit, streams too, so that a frozen member costs `etcd_call_seconds` and then another one is asked.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from infra.discovery.protos import rpc_pb2, rpc_pb2_grpc
from infra.discovery.protos.kv_pb2 import Event
from infra.errors import Unavailable
from infra.settings import Settings

T = TypeVar("T")
NEEDS_LEADER = (("hasleader", "true"),)  # a member cut off from the others ends the watch instead of going silent
OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, slots=True)
class Change:
    """A key that was written (`value`) or is gone (None)."""

    key: str
    value: bytes | None


class Etcd:
    """A client of the members in `etcd_hosts`."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.etcd_hosts
        self._call_seconds = settings.etcd_call_seconds
        self._stream_seconds = settings.etcd_stream_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._at = 0

    async def grant(self, ttl_seconds: int) -> int:
        """A lease of this length; its id. :raises Unavailable: no member answered."""

        async def ask(channel: grpc.aio.Channel) -> int:
            request = rpc_pb2.LeaseGrantRequest(TTL=ttl_seconds)
            return (await rpc_pb2_grpc.LeaseStub(channel).LeaseGrant(request, timeout=self._call_seconds)).ID

        return await self._ask(ask)

    async def put(self, key: str, value: bytes, lease: int) -> None:
        """Write a key that lives as long as the lease. :raises Unavailable: no member took it."""

        async def ask(channel: grpc.aio.Channel) -> None:
            request = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease)
            await rpc_pb2_grpc.KVStub(channel).Put(request, timeout=self._call_seconds)

        await self._ask(ask)

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; its seconds, 0 when it is gone. :raises Unavailable: no member answered."""

        async def ask(channel: grpc.aio.Channel) -> int:
            call = rpc_pb2_grpc.LeaseStub(channel).LeaseKeepAlive(timeout=self._call_seconds)
            try:
                await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
                answer = await call.read()
            finally:
                call.cancel()
            if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
                raise Unavailable
            return answer.TTL

        return await self._ask(ask)

    async def revoke(self, lease: int) -> None:
        """End a lease and what was written under it. :raises Unavailable: no member answered, or it is gone."""

        async def ask(channel: grpc.aio.Channel) -> None:
            request = rpc_pb2.LeaseRevokeRequest(ID=lease)
            await rpc_pb2_grpc.LeaseStub(channel).LeaseRevoke(request, timeout=self._call_seconds)

        await self._ask(ask)

    async def read(self, prefix: str) -> tuple[int, dict[str, bytes]]:
        """All keys with this prefix, and the revision they were read at. :raises Unavailable: no member answered."""

        async def ask(channel: grpc.aio.Channel) -> tuple[int, dict[str, bytes]]:
            request = rpc_pb2.RangeRequest(key=prefix.encode(), range_end=_end(prefix))
            answer = await rpc_pb2_grpc.KVStub(channel).Range(request, timeout=self._call_seconds)
            return answer.header.revision, {pair.key.decode(): pair.value for pair in answer.kvs}

        return await self._ask(ask)

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[list[Change]]:
        """The changes from this revision on; ends after `etcd_stream_seconds`, or when the revision is not kept.

        :raises Unavailable: the member went away, or has no leader.
        """
        create = rpc_pb2.WatchCreateRequest(key=prefix.encode(), range_end=_end(prefix), start_revision=revision)
        stub = rpc_pb2_grpc.WatchStub(self._channel())
        call = stub.Watch(timeout=self._stream_seconds, metadata=NEEDS_LEADER)
        try:
            await call.write(rpc_pb2.WatchRequest(create_request=create))
            while True:
                answer = await call.read()
                if not isinstance(answer, rpc_pb2.WatchResponse) or answer.compact_revision:
                    return
                if answer.canceled:
                    raise Unavailable
                if answer.events:
                    yield [_change(event) for event in answer.events]
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # that one is our own limit
                self._turn()
                raise Unavailable from error
        finally:
            call.cancel()

    async def ping(self) -> bool:
        """Does any member answer?"""
        try:
            await self.read("/services/")  # a read that any member must agree on
        except Unavailable:
            return False
        return True

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _ask(self, ask: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        cause: Exception | None = None
        for _ in self._hosts:
            try:
                return await ask(self._channel())
            except (grpc.aio.AioRpcError, Unavailable) as error:
                cause = error
                self._turn()
        raise Unavailable from cause

    def _channel(self) -> grpc.aio.Channel:
        host = self._hosts[self._at]
        if host not in self._channels:
            self._channels[host] = grpc.aio.insecure_channel(host, options=OPTIONS)
        return self._channels[host]

    def _turn(self) -> None:
        self._at = (self._at + 1) % len(self._hosts)


def reason(error: Unavailable) -> str:
    """Why no member answered, for a log line."""
    cause = error.__cause__
    return f"{cause.code().name}: {cause.details()}" if isinstance(cause, grpc.aio.AioRpcError) else "ended"


def _change(event: Event) -> Change:
    return Change(event.kv.key.decode(), None if event.type == Event.DELETE else event.kv.value)


def _end(prefix: str) -> bytes:
    """The first key after those with this prefix."""
    key = prefix.encode()
    return key[:-1] + bytes([key[-1] + 1])
