"""The platform's REST API, as the flow and the demo call it."""

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2

from infra.local.failures import CallFailed

TIMEOUT_SECONDS = 10.0
PAUSE_SECONDS = 0.5
NOT_NOW = (503, 504)
CONNECTIONS_MAX = 100


@dataclass(frozen=True)
class Answer:
    """A response: its status, its JSON, and the trace that led to it."""

    status: int
    body: dict[str, Any]
    trace_id: str

    @property
    def code(self) -> str:
        """`OK`, or the problem's code."""
        return "OK" if self.status < 400 else str(self.body.get("code", self.status))

    def expect(self) -> dict[str, Any]:
        """The body of a success.

        :raises CallFailed: it is none.
        """
        if self.status >= 400:
            raise CallFailed(f"{self.status} {self.code}: {self.body.get('detail', '')} (trace {self.trace_id})")
        return self.body


class Api:
    """A client of one edge. Each POST is its own demand: it carries a new Idempotency-Key.

    :param tries: how often a demand is made, under the same key, while the answer is "not now" (503, 504) or none.
    """

    def __init__(self, url: str, *, tries: int = 1) -> None:
        self._tries = tries
        limits = httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX)
        self._client = httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._client.aclose()

    async def get(self, path: str, token: str) -> Answer:
        return await self._call("GET", path, token, None, {})

    async def post(self, path: str, token: str, body: dict[str, Any]) -> Answer:
        return await self._call("POST", path, token, body, {"Idempotency-Key": str(uuid.uuid4())})

    async def _call(
        self, method: str, path: str, token: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> Answer:
        headers = {**headers, "Authorization": f"Bearer {token}"}
        for _ in range(self._tries - 1):
            with contextlib.suppress(CallFailed):
                answer = await self._once(method, path, body, headers)
                if answer.status not in NOT_NOW:
                    return answer
            await asyncio.sleep(PAUSE_SECONDS)
        return await self._once(method, path, body, headers)

    async def _once(self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]) -> Answer:
        try:
            answer = await self._client.request(method, path, json=body, headers=headers)
            told = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise CallFailed(f"{method} {path}: {error!r}") from error
        _, _, rest = answer.headers.get("traceparent", "").partition("-")
        return Answer(answer.status_code, told, rest.partition("-")[0])
