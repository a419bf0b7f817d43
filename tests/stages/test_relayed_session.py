"""One session in this event loop, between a caller and an upstream that are queues: who ends it, and what it leaves."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest
from harness import run, uncollected

from keypool_asgi import UpstreamKey
from keypool_asgi.core.close_codes import DRAINING, IDLE
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.sessions import Close, SessionLimits
from keypool_asgi.exchange import Attempt, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.relayed_session import RelayedSession

BEGIN = '{"type":"Begin","id":"x","expires_at":1800000000}'
FIGURES = '{"type":"Termination","audio_duration_seconds":1,"session_duration_seconds":1}'
GONE = {"type": "websocket.disconnect", "code": 1000}


class Upstream:
    """A socket, and what opens it: it begins at once, and ends when it is told."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[str | bytes | Close] = asyncio.Queue()
        self.said.put_nowait(BEGIN)
        self.sent: list[str | bytes] = []
        self.closed: list[Close] = []

    async def open(self, head: Any, *, last_words: str | None = None) -> Upstream:  # the port's
        return self

    async def send(self, message: str | bytes) -> None:
        self.sent.append(message)
        if message == '{"type":"Terminate"}':
            self.said.put_nowait(FIGURES)
            self.said.put_nowait(Close(1000))

    async def receive(self) -> str | bytes | Close:
        return await self.said.get()

    async def close(self, close: Close) -> None:
        self.closed.append(close)

    def abort(self) -> None:
        raise AssertionError("a session that was served ends in order")


class Room:
    """A session, and what it needs."""

    provider, clock = ASSEMBLYAI, staticmethod(time.time)

    def __init__(self, **limits: float) -> None:
        self.limits = SessionLimits(**limits)  # type: ignore[arg-type] # sizes keep their defaults
        self.sockets = self.upstream = Upstream()
        operation = ASSEMBLYAI.table.named("streaming.session")
        self.exchange = Exchange("id", operation, operation.path, {}, Framing(0, chunked=False), lambda: "http://pool")
        self.exchange.attempts.append(Attempt(UpstreamKey("k1", secret="secret-of-k1", project="p")))
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.got: list[dict[str, Any]] = []

    def upgrade_request(self, exchange: Exchange, scope: Any) -> Any:
        return exchange, scope

    async def send(self, message: dict[str, Any]) -> None:
        self.got.append(message)

    async def serve(self) -> None:
        rules = ASSEMBLYAI.sessions[self.exchange.operation.service]
        session = RelayedSession(self, self.exchange, rules, None, self.send)
        await session.run({}, self.heard.get)
        if not session.is_closed:
            await session.part()


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.send"])
def test_who_asks_for_the_end_while_the_caller_is_accepted_is_heard(kind: str) -> None:
    class Hasty(Room):
        async def send(self, message: dict[str, Any]) -> None:
            await super().send(message)
            if message["type"] == kind:
                self.exchange.stop(DRAINING)

    async def main() -> None:
        room = Hasty()
        await asyncio.wait_for(room.serve(), 5)
        assert room.upstream.sent == ['{"type":"Terminate"}']
        assert [message["type"] for message in room.got] == [
            "websocket.accept",
            "websocket.send",
            "websocket.send",
            "websocket.close",
        ]
        assert (room.got[-1]["code"], room.got[-2]["text"]) == (DRAINING.code, FIGURES)

    run(main())


def test_a_session_is_idle_from_the_last_message_on() -> None:
    async def main() -> None:
        room = Room(idle_seconds=0.2)
        began = asyncio.get_running_loop().time()
        serving = asyncio.create_task(room.serve())
        for _ in range(4):
            await asyncio.sleep(0.1)
            room.heard.put_nowait({"type": "websocket.receive", "bytes": b"audio"})
        await asyncio.wait_for(serving, 5)
        assert asyncio.get_running_loop().time() - began >= 0.55
        assert room.upstream.sent == [b"audio"] * 4 + ['{"type":"Terminate"}']
        assert room.got[-1]["code"] == IDLE.code

    run(main())


def test_a_silent_session_does_not_hold_what_it_said_last() -> None:
    async def main() -> None:
        room = Room()
        serving = asyncio.create_task(room.serve())
        await asyncio.sleep(0.05)
        audio = bytes(range(256))
        before = sys.getrefcount(audio)
        room.heard.put_nowait({"type": "websocket.receive", "bytes": audio})
        await asyncio.sleep(0.05)
        held = sys.getrefcount(audio) - before
        assert (room.upstream.sent, held) == ([audio], 1)  # by the list that notes it
        room.heard.put_nowait(GONE)
        await asyncio.wait_for(serving, 5)

    run(main())


@pytest.mark.parametrize("ends", ["caller", "upstream", "stop"])
def test_a_session_leaves_nothing_to_the_garbage_collector(ends: str) -> None:
    """Full collections visit every object of every session that is open, and stop them all meanwhile."""

    async def serve_one() -> None:
        room = Room()
        serving = asyncio.create_task(room.serve())
        await asyncio.sleep(0.01)
        if ends == "caller":
            room.heard.put_nowait(GONE)
        elif ends == "upstream":
            room.upstream.said.put_nowait(Close(1000))
        else:
            room.exchange.stop(DRAINING)
        await asyncio.wait_for(serving, 5)

    async def main() -> None:
        with uncollected(RelayedSession, Exchange) as left:
            await serve_one()
            await asyncio.sleep(0)
            assert left() == 0

    run(main())
