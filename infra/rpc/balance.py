"""Chooses the instance a call goes to: in turn, or always the same one for a key; not one that just failed."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from infra.discovery import Instances
from infra.errors import Unavailable
from infra.rpc import transport
from infra.settings import Settings

Stub: TypeAlias = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Wire:
    """How one method goes over the wire. `path` is `/package.Service/Method`."""

    path: str
    serialize: Callable[[Message], bytes]
    deserialize: Callable[[bytes], Message]


class _Recorder:
    """Stands where a stub wants its channel and keeps what it asks for."""

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> None:
        self.wires[path.rpartition("/")[2]] = Wire(path, request_serializer, response_deserializer)


def wires_of(stub_class: Stub) -> Mapping[str, Wire]:
    """The unary methods of a generated stub, by their bare names."""
    recorder = _Recorder()
    stub_class(recorder)
    return recorder.wires


@dataclass(slots=True, eq=False)
class Instance:
    """One address with its channel. `away_until`: an instant before which it is not asked, 0 for a good one."""

    address: str
    channel: grpc.aio.Channel
    wires: Mapping[str, Wire]
    inflight: int = 0
    away_until: float = 0.0
    methods: dict[str, "grpc.aio.UnaryUnaryMultiCallable[Any, Any]"] = field(default_factory=dict)

    def method(self, name: str) -> "grpc.aio.UnaryUnaryMultiCallable[Any, Any]":
        """What calls this method here."""
        found = self.methods.get(name)
        if found is None:
            wire = self.wires[name]
            found = self.channel.unary_unary(wire.path, wire.serialize, wire.deserialize)
            self.methods[name] = found
        return found

    def is_there(self) -> bool:
        """Has it not failed lately, or is it connected again since?"""
        return not self.away_until or self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def serves(self, timeout_seconds: float) -> bool:
        """Does it say SERVING within this time?"""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)  # its stubs know no methods
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class Connect(Protocol):
    """Opens a channel to an address."""

    def __call__(self, address: str) -> grpc.aio.Channel: ...


def connector(settings: Settings) -> Connect:
    """Opens channels with our options, under mutual TLS where that is set."""
    options, credentials = transport.channel_options(settings), transport.channel_credentials(settings)
    interceptors = transport.client_interceptors(settings)

    def connect(address: str) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
        return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)

    return connect


class Balancer:
    """The instances of one upstream, followed as they come and go."""

    def __init__(self, instances: Instances, stub_class: Stub, settings: Settings) -> None:
        self._instances = instances
        self._wires = wires_of(stub_class)
        self._connect = connector(settings)
        self._away_seconds = settings.rpc_instance_away_seconds
        self._addresses: tuple[str, ...] = ()
        self._live: dict[str, Instance] = {}
        self._retired: list[Instance] = []
        self._turn = 0

    def path(self, name: str) -> str:
        """`package.Service/Method` of a bare name."""
        return self._wires[name].path.removeprefix("/")

    def pick(self, key: int | None = None, besides: Instance | None = None) -> Instance:
        """The instance for a call. One that failed gets a call now and then, to see whether it is back.

        :raises Unavailable: no instance is known.
        """
        live = list(self._follow().values())
        if len(live) == 1:
            return live[0]
        now = asyncio.get_running_loop().time()
        good = [each for each in live if each.away_until <= now and each is not besides]
        if not good:
            good = [each for each in live if each is not besides]
        if not good:
            raise Unavailable
        if key is None:
            self._turn += 1
            chosen = good[self._turn % len(good)]
        else:
            chosen = max(good, key=lambda each: _weight(each.address, key))
        if chosen.away_until:
            chosen.away_until = now + self._away_seconds  # this call tries; the next ones wait for its end
        return chosen

    def failed(self, instance: Instance) -> None:
        """It did not answer: the others are asked for a while."""
        instance.away_until = asyncio.get_running_loop().time() + self._away_seconds

    def answered(self, instance: Instance) -> None:
        """It is there."""
        instance.away_until = 0.0

    def all(self) -> list[Instance]:
        """Every instance that is known."""
        return list(self._follow().values())

    async def sweep(self) -> None:
        """Close the channels of instances that left, once their last call has ended."""
        if not self._retired:
            return
        idle = [each for each in self._retired if not each.inflight]
        self._retired = [each for each in self._retired if each.inflight]
        for each in idle:
            await each.channel.close()

    async def close(self) -> None:
        """Close every channel; calls in flight end."""
        for each in (*self._live.values(), *self._retired):
            await each.channel.close()
        self._live, self._retired, self._addresses = {}, [], ()

    def _follow(self) -> dict[str, Instance]:
        addresses = self._instances.current()
        if addresses is not self._addresses:
            self._addresses, before = addresses, self._live
            self._live = {
                each: before[each] if each in before else self._open(each) for each in dict.fromkeys(addresses)
            }
            self._retired.extend(each for address, each in before.items() if address not in self._live)
        return self._live

    def _open(self, address: str) -> Instance:
        return Instance(address, self._connect(address), self._wires)


def _weight(address: str, key: int) -> bytes:
    """Rendezvous hashing: who weighs most for a key serves it; a change moves only what it must."""
    return blake2b(f"{address} {key}".encode(), digest_size=8).digest()
