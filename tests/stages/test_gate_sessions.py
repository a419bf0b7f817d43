"""The gate and WebSocket sessions: while draining none comes in, and those that are open are asked to end."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import run

from keypool_asgi.core.close_codes import DRAINING
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.sessions import Close
from keypool_asgi.exchange import SCOPE_KEY, Exchange, exchange_of
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.gate import Gate


def scope(kind: str = "websocket") -> dict[str, Any]:
    operation = ASSEMBLYAI.table.named("streaming.session" if kind == "websocket" else "voices.list")
    exchange = Exchange("id", operation, operation.path, {}, Framing(0, chunked=False), "http://pool")
    return {"type": kind, "headers": [], SCOPE_KEY: exchange}


class Room:
    """An app whose sessions last until they are asked to end, or for ever."""

    def __init__(self, *, obeys: bool = True) -> None:
        self.obeys = obeys
        self.gate = Gate(self.app)
        self.door = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.asked: list[Close] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        exchange_of(scope).on_stop = self._on_stop
        await self.door.wait()

    def _on_stop(self, close: Close) -> None:
        self.asked.append(close)
        if self.obeys:
            self.door.set()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def enter(self, kind: str = "websocket", number: int = 1) -> list[asyncio.Task[None]]:
        calls = [self.gate(scope(kind), None, self.send) for _ in range(number)]  # type: ignore[arg-type]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        return tasks


def test_a_drain_asks_every_session_to_end_and_waits_for_it() -> None:
    async def main() -> None:
        room = Room()
        tasks = await room.enter(number=3)
        assert room.gate.open_exchanges == 3
        assert await room.gate.drain(5) is True
        assert room.asked == [DRAINING] * 3
        assert (DRAINING.code, bool(DRAINING.reason)) == (1012, True)
        await asyncio.wait(tasks)
        assert room.gate.open_exchanges == 0

    run(main())


def test_a_session_that_takes_no_notice_is_not_waited_for_beyond_the_deadline() -> None:
    async def main() -> None:
        room = Room(obeys=False)
        tasks = await room.enter()
        began = asyncio.get_running_loop().time()
        assert await room.gate.drain(0.05) is False
        assert 0.04 < asyncio.get_running_loop().time() - began < 1
        room.door.set()
        await asyncio.wait(tasks)

    run(main())


def test_requests_are_not_asked_and_may_end() -> None:
    async def main() -> None:
        room = Room(obeys=False)
        tasks = await room.enter("http") + await room.enter()
        draining = asyncio.create_task(room.gate.drain(5))
        await asyncio.sleep(0.01)
        assert room.asked == [DRAINING]
        assert not draining.done()
        room.door.set()
        assert await draining is True
        await asyncio.wait(tasks)

    run(main())


def test_a_new_session_is_refused_with_a_denial() -> None:
    async def main() -> None:
        room = Room()
        assert await room.gate.drain(0) is True
        await asyncio.gather(*await room.enter())
        start, body = room.sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
        assert (b"retry-after", b"1") in start["headers"]
        assert b'"DRAINING"' in body["body"]
        assert room.gate.open_exchanges == 0
        assert room.asked == []

    run(main())


def test_a_second_drain_does_not_ask_twice() -> None:
    """A hook before the shutdown, and the shutdown itself: the first word stands."""

    async def main() -> None:
        room = Room(obeys=False)
        tasks = await room.enter()
        assert await room.gate.drain(0.01) is False
        assert await room.gate.drain(0.01) is False
        assert room.asked == [DRAINING]
        room.door.set()
        await asyncio.wait(tasks)

    run(main())


def test_a_session_that_has_ended_is_forgotten() -> None:
    async def main() -> None:
        room = Room(obeys=False)
        (task,) = await room.enter()
        task.cancel()
        await asyncio.wait([task])
        assert room.gate.open_exchanges == 0
        assert await room.gate.drain(0) is True
        assert room.asked == []

    run(main())


def test_after_reopening_sessions_come_in_again() -> None:
    async def main() -> None:
        room = Room()
        await room.gate.drain(0)
        room.gate.reopen()
        tasks = await room.enter()
        assert room.gate.open_exchanges == 1
        assert room.sent == []
        room.door.set()
        await asyncio.wait(tasks)

    run(main())


def test_who_is_asked_before_it_listens_is_told_when_it_does() -> None:
    """A session is in the gate while its key is still looked for: ``stopped`` waits for the relay."""

    async def main() -> None:
        seen = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.02)
            seen.append(exchange_of(scope).stopped)

        gate = Gate(app)
        task = asyncio.create_task(gate(scope(), None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert await gate.drain(1) is True
        await task
        assert seen == [DRAINING]

    run(main())
