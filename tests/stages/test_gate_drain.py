"""The gate: what it counts, what it refuses while draining, and for how long it waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import run

from keypool_asgi.core.headers import Framing
from keypool_asgi.exchange import SCOPE_KEY, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.stages.gate import Gate


def scope() -> dict[str, Any]:
    operation = ASSEMBLYAI.table.named("voices.list")
    exchange = Exchange("id", operation, operation.path, {}, Framing(0, chunked=False), "http://pool")
    return {"type": "http", "headers": [], SCOPE_KEY: exchange}


class Room:
    """An app in which exchanges stay until they are let go."""

    def __init__(self) -> None:
        self.gate = Gate(self.app)
        self.door = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.door.wait()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def call(self) -> None:
        await self.gate(scope(), None, self.send)  # type: ignore[arg-type]

    async def enter(self, number: int = 1) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.call()) for _ in range(number)]
        await asyncio.sleep(0)
        return tasks


def test_it_counts_whatever_ends_an_exchange() -> None:
    async def main() -> None:
        room = Room()
        one, two, three = await room.enter(3)
        assert room.gate.open_exchanges == 3
        one.cancel()
        await asyncio.wait([one])
        assert room.gate.open_exchanges == 2
        room.door.set()
        await asyncio.wait([two, three])
        assert room.gate.open_exchanges == 0

        async def fails(*_: Any) -> None:
            raise RuntimeError("bug")

        room.gate.app = fails
        with pytest.raises(RuntimeError):
            await room.call()
        assert room.gate.open_exchanges == 0

    run(main())


def test_an_empty_gate_is_drained_at_once() -> None:
    async def main() -> None:
        room = Room()
        assert await room.gate.drain(0) is True
        await room.call()
        assert room.sent[0]["status"] == 503
        assert (b"retry-after", b"1") in room.sent[0]["headers"]
        assert b'"DRAINING"' in room.sent[1]["body"]
        room.gate.reopen()
        await room.enter()
        assert room.gate.open_exchanges == 1
        room.door.set()

    run(main())


def test_draining_waits_for_the_last_one() -> None:
    async def main() -> None:
        room = Room()
        tasks = await room.enter(2)
        draining = asyncio.create_task(room.gate.drain(5))
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.01)
        assert not draining.done()
        room.door.set()
        assert await draining is True
        await asyncio.wait(tasks)

    run(main())


def test_draining_gives_up_at_its_deadline() -> None:
    async def main() -> None:
        room = Room()
        await room.enter()
        began = asyncio.get_running_loop().time()
        assert await room.gate.drain(0.05) is False
        assert 0.04 < asyncio.get_running_loop().time() - began < 1
        room.door.set()

    run(main())


def test_two_who_drain_at_the_same_time_both_learn_of_the_end() -> None:
    """A hook before the shutdown, and the shutdown itself."""

    async def main() -> None:
        room = Room()
        await room.enter()
        both = [asyncio.create_task(room.gate.drain(5)) for _ in range(2)]
        await asyncio.sleep(0.01)
        room.door.set()
        assert await asyncio.wait_for(asyncio.gather(*both), 1) == [True, True]

    run(main())


def test_draining_again_later_waits_again() -> None:
    async def main() -> None:
        room = Room()
        await room.enter()
        room.door.set()
        assert await room.gate.drain(1) is True
        room.door.clear()
        room.gate.reopen()
        await room.enter()
        assert await room.gate.drain(0.02) is False
        room.door.set()

    run(main())
