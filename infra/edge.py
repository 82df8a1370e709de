"""The HTTP protocol of our servers: uvicorn's fast one, with limits it has no options for.

A request's head must be complete in `http_head_seconds` and have at most `http_head_bytes_max`; a silent connection is
one whose first head never comes.
"""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.settings import Settings

TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 15\r\nconnection: close\r\n\r\nHead too large."
)
LINE_OVERHEAD = 4  # ": " and the line's end


class Edge(HttpToolsProtocol):
    """A connection whose heads are bounded in time and size."""

    head_seconds = 5.0
    head_bytes_max = 16_384

    _timer: asyncio.TimerHandle | None = None
    _head = 0  # bytes read while the head is incomplete
    _parsed = 0  # bytes of its parts that the parser has told
    _refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        waiting = self._timer is not None
        super().data_received(data)
        if waiting and self._timer is not None:  # the head is still incomplete: what the parser holds counts too
            self._head += len(data)
            if self._head > self.head_bytes_max:
                self._refuse()

    def on_message_begin(self) -> None:
        if self._timer is None:  # the next request of a kept-alive connection
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._measure(len(name) + len(value) + LINE_OVERHEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            super().send_400_response(msg)

    def _await_head(self) -> None:
        self._head = self._parsed = 0
        self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self, size: int) -> None:
        """A whole head may come in one read, so its parts are counted as they are parsed."""
        self._parsed += size
        if self._parsed > self.head_bytes_max:
            self._refuse()
            raise ValueError("head too large")  # stops the parser; uvicorn takes it for a malformed request

    def _refuse(self) -> None:
        self._refused = True
        self.transport.write(TOO_LARGE)
        self.transport.close()


def edge(settings: Settings) -> type[Edge]:
    """The protocol class with this process's limits, for `uvicorn.Config(http=...)`."""
    limits = {"head_seconds": settings.http_head_seconds, "head_bytes_max": settings.http_head_bytes_max}
    return type("Edge", (Edge,), limits)
