"""A pool in this event loop over an upstream that is a function: no sockets, every request on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from faults.rig import TOKEN, Caller, keys_of, scope_of
from harness import secret

from keypool_asgi import KeyPool, Limit, Team

__all__ = ["DOCUMENTED_401", "Script", "answer"]

DOCUMENTED_401 = {"error": "Authentication error, API token missing/invalid"}

Answer = httpx.Response | BaseException


def answer(status: int, body: Any = None, *headers: tuple[str, str]) -> httpx.Response:
    """Make an answer; its body is bytes as they are, or anything that JSON has."""
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    fields = [("Content-Type", "application/json"), ("Content-Length", str(len(content))), *headers]
    return httpx.Response(status, headers=fields, stream=httpx.ByteStream(content))


@dataclass
class Script:
    """What upstream answers to each request, and the pool before it."""

    answers: Callable[[httpx.Request], Answer]
    requests: list[httpx.Request] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)

    def pool(self, *names: str, limits: Iterable[Limit] = (), **settings: Any) -> KeyPool:
        given: dict[str, Any] = {
            "keys": keys_of(*names or ("k1",)),
            "teams": {TOKEN: Team("team-a", limits=limits)},
            "transport": httpx.MockTransport(self._handle),
            "on_exchange": self.records.append,
            "key_wait_seconds": 0,
        }
        self.app = KeyPool(**(given | settings))
        return self.app

    async def ask(self, method: str, target: str, body: bytes | None = None, *headers: tuple[bytes, bytes]) -> Caller:
        size = None if body is None else len(body)
        return await Caller([body or b""]).call(self.app, scope_of(method, target, *headers, body=size))

    def used(self) -> list[str]:
        """Names of the keys that upstream saw, in order."""
        seen = [request.headers["authorization"].removeprefix("Bearer ") for request in self.requests]
        names = {secret(key.id): key.id for key in self.app.keys()}
        return [names[one] for one in seen]

    def states(self) -> set[str]:
        """Every state that a key is in, at any service."""
        return {health.state.value for key in self.app.keys() for health in key.health.values()}

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        given = self.answers(request)
        if isinstance(given, BaseException):
            raise given
        return given
