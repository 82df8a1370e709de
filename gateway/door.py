"""What HTTP brings and takes: head, body, the client's address, and the bytes of an answer."""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from starlette.types import Receive, Scope, Send

from gateway import problems
from infra import telemetry
from infra.errors import Refused, ValidationFailed
from infra.logs import add_facts

Headers: TypeAlias = list[tuple[bytes, bytes]]  # of an answer
Heads: TypeAlias = Mapping[bytes, bytes]  # of a request

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
# Answers are personal, and a browser must not take them for anything but what they say they are.
_ALWAYS: Headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_IPV6_PREFIX = 64  # what one customer of a provider has


class ClientGone(Exception):
    """The client left before it had said everything; nobody waits for an answer."""


@dataclass(slots=True)
class Answer:
    """What goes back: the body's bytes, headers beside the usual ones, and a status if it is not the route's own."""

    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = (JSON,)
    status: int | None = None


async def send_answer(send: Send, answer: Answer, status: int, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Sends an answer, under `status` if it has none of its own, with the headers all answers have, and `more`."""
    length = (b"content-length", str(len(answer.body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": answer.status or status,
            "headers": [*answer.headers, length, *_ALWAYS, *more],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})


def problem(refusal: Refused, scope: Scope, upstream: str = "") -> Answer:
    """The problem document of a refusal, for the request in `scope`."""
    trace_id = f"{telemetry.current_span().get_span_context().trace_id:032x}"
    add_facts(refusal_code=refusal.code)
    told = problems.document(refusal, upstream=upstream, instance=scope["path"], trace_id=trace_id)
    return Answer(told.body, told.headers, told.status)


def heads(scope: Scope) -> Heads:
    """The request's headers by name; several lines of one are joined by commas, as the standard has it."""
    raw = scope["headers"]
    found: dict[bytes, bytes] = dict(raw)
    if len(found) < len(raw):
        for name in found:
            found[name] = b", ".join(value for key, value in raw if key == name)
    return found


async def read_json(heads: Heads, receive: Receive, *, bytes_max: int, seconds: float) -> bytes:
    """The bytes of a JSON body; empty when there is none.

    :raises BodyTooLarge: above `bytes_max`
    :raises UnsupportedMediaType: for a body that is not plain `application/json`
    :raises ValidationFailed: when it has not arrived within `seconds`
    """
    if int(heads.get(b"content-length", 0)) > bytes_max:
        raise problems.BodyTooLarge()
    try:
        async with asyncio.timeout(seconds):
            body = await _read(receive, bytes_max)
    except TimeoutError:
        raise ValidationFailed({"body": f"did not arrive within {seconds:g} seconds"}) from None
    if body and (heads.get(b"content-type") != b"application/json" or b"content-encoding" in heads):
        _check_media_type(heads)
    return body


async def _read(receive: Receive, bytes_max: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone()
        body += bytes(message.get("body", b""))
        if len(body) > bytes_max:
            raise problems.BodyTooLarge()
        if not message.get("more_body", False):
            return body


def _check_media_type(heads: Heads) -> None:
    given = heads.get(b"content-type", b"").decode("latin-1")
    kind, *parameters = given.lower().replace(" ", "").split(";")
    charsets = {each.removeprefix("charset=").strip('"') for each in parameters if each.startswith("charset=")}
    encoded = heads.get(b"content-encoding", b"identity").lower() != b"identity"
    if kind != "application/json" or charsets - {"utf-8", "utf8"} or encoded:
        raise problems.UnsupportedMediaType()


def client_address(scope: Scope, heads: Heads, trusted_proxy_hops: int) -> str:
    """The address of the client: of the peer, or the one our outermost proxy saw.

    `X-Forwarded-For` is believed for as many entries, from its end, as there are proxies of ours. An IPv6 address is
    cut to its /64.
    """
    peer = scope["client"][0] if scope.get("client") else ""
    chain = heads.get(b"x-forwarded-for", b"").decode("latin-1")
    forwarded = [each.strip() for each in chain.split(",") if each.strip()]
    if trusted_proxy_hops and forwarded:
        peer = forwarded[-min(trusted_proxy_hops, len(forwarded))]
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False).network_address)
