"""HTTP/1.1 by hand over kept connections: a client library would cost more than what it measures."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """One answer and how long it took; status 0 is none."""

    status: int
    body: bytes
    seconds: float

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found

    @property
    def code(self) -> str:
        """`OK`, or the problem's code."""
        if self.status == 0:
            return "NO ANSWER"
        return "OK" if self.status < 400 else str(self.told.get("code", self.status))


def post(path: str, host: str, token: str, body: Mapping[str, Any]) -> bytes:
    """A POST of JSON, ready to be sent."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def send_all(host: str, port: int, requests: Sequence[bytes], connections: int) -> list[Answer]:
    """The answers to all requests, in no order, over so many connections."""
    waiting = iter(requests)
    answers: list[Answer] = []
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(_connection(host, port, waiting, answers))
    return answers


async def _connection(host: str, port: int, waiting: Iterator[bytes], answers: list[Answer]) -> None:
    """Takes the next request until there is none; a broken connection is opened again."""
    link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for request in waiting:
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                link = link or await asyncio.open_connection(host, port)
                link[1].write(request)
                status, body = await _read(link[0])
        except (OSError, TimeoutError, EOFError, ValueError):
            status, body, link = 0, b"", None
        answers.append(Answer(status, body, time.perf_counter() - begin))
    if link:
        link[1].close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)
