"""How the platform is: who is up, and which breakers are open."""

import asyncio

import orjson

from gateway.door import Answer
from gateway.endpoint import Ask, Gateway
from gateway.fields import Nothing
from gateway.problems import SomeDown


async def check(ask: Ask[Nothing], gateway: Gateway) -> Answer:
    """Tell whether the gateway and each worker are up; 503 as soon as one is down."""
    upstreams = gateway.clients.upstreams
    seconds = gateway.settings.health_check_seconds
    states = await asyncio.gather(*(each.check(seconds) for each in upstreams))
    services = {gateway.settings.service_name: "up"}
    services |= {each.name: "up" if up else "down" for each, up in zip(upstreams, states, strict=True)}
    if not all(states):
        raise SomeDown(services)
    return Answer(orjson.dumps({"services": services}))


async def circuit_breakers(ask: Ask[Nothing], gateway: Gateway) -> Answer:
    """Read the state of the circuit breaker of each worker."""
    states = [upstream.state() for upstream in gateway.clients.upstreams]
    shown = [
        {
            "name": each.name,
            "state": each.state.value,
            "counts": {"successes": each.successes, "failures": each.failures, "rejected": each.rejected},
        }
        for each in states
    ]
    return Answer(orjson.dumps({"circuitBreakers": shown}))
