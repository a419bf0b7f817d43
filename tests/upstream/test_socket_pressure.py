"""Back-pressure both ways, and how much is held in memory (invariant I4)."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest

from keypool_asgi.core.sessions import Close
from keypool_asgi.errors import ConnectionBroken, UpstreamTimeout
from keypool_asgi.testing.simulator.sockets.frames import frame
from keypool_asgi.upstream import Timeouts

from .socket_tools import BINARY, CLOSE, PING, PONG, TEXT, Script, drain, playing
from .test_connection import loops
from .tools import run, until

MANY = 6000  # messages of 4 KiB: 24 MiB, far more than both kernels' buffers and ours


async def stuck(writer: asyncio.StreamWriter) -> int:
    """Wait until nothing has left a writer for a while; returns what is left."""
    left = -1

    def still() -> bool:
        nonlocal left
        before, left = left, writer.transport.get_write_buffer_size()
        return 0 < left == before

    while not still():  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return left


@loops
@pytest.mark.parametrize("limits", [{"buffered_messages": 8}, {"buffered_bytes": 32_768}])
@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_slow_receiver_stops_upstream(loop: str, limits: dict[str, int], size: int) -> None:
    payload = b"x" * size
    count = MANY * 4096 // max(size, 2048)

    async def act(script: Script) -> None:
        script.wire.writer.write(frame(BINARY, payload) * count + frame(CLOSE, b"\x03\xe8"))
        if size == 4096:
            assert await stuck(script.wire.writer) > MANY * 4096 // 4
        stopped.set()
        await script.hear_close()

    stopped = asyncio.Event()

    async def main() -> None:
        async with playing(act, **limits) as stage:
            socket = await stage.open()
            await stopped.wait()
            await asyncio.sleep(0.05)
            held = len(socket._messages)
            assert held <= 64
            assert sum(map(len, socket._messages)) <= 32_768 + 4096 if "buffered_bytes" in limits else held == 8
            received = await drain(socket)
            assert received[-1] == Close(1000)
            assert received[:-1] == [payload] * count

    run(main(), loop=loop, seconds=60)


@loops
def test_what_waits_outlives_the_connection(loop: str) -> None:
    async def act(script: Script) -> None:
        await script.send(frame(BINARY, b"x" * 100) * 500 + frame(CLOSE, b"\x03\xe9"))
        await asyncio.sleep(0.05)
        script.wire.reset()

    async def main() -> None:
        async with playing(act, buffered_messages=4) as stage:
            socket = await stage.open()
            await until(lambda: bool(socket._messages))
            await stage.peer.settled()
            with pytest.raises(ConnectionBroken):
                await send_on(socket)  # this is how a broken connection is noticed that nobody reads
            await asyncio.sleep(0.01)
            assert await drain(socket) == [b"x" * 100] * 500 + [Close(1001)]
            assert socket._conn.overdue._timer is None

    run(main(), loop=loop)


def test_what_came_after_an_abort_is_not_told() -> None:
    async def act(script: Script) -> None:
        await script.send(frame(BINARY, b"x") * 500 + frame(CLOSE, b"\x03\xe9"))
        await script.to_end()

    async def main() -> None:
        async with playing(act, buffered_messages=4) as stage:
            socket = await stage.open()
            await until(lambda: len(socket._messages) == 4)
            socket.abort()
            assert await drain(socket) == [b"x"] * 4 + [Close(1006, "the connection was cut here")]

    run(main())


def test_text_is_counted_in_bytes() -> None:
    async def act(script: Script) -> None:
        await script.send(frame(TEXT, "é".encode() * 500) * 100 + frame(CLOSE, b"\x03\xe8"))
        await script.hear_close()

    async def main() -> None:
        async with playing(act, buffered_bytes=10_000) as stage:
            socket = await stage.open()
            await asyncio.sleep(0.05)
            assert 2 <= len(socket._messages) <= 10
            assert await drain(socket) == ["é" * 500] * 100 + [Close(1000)]

    run(main())


@loops
def test_a_slow_upstream_stops_the_sender(loop: str) -> None:
    go_on = asyncio.Event()
    heard: list[bytes] = []

    async def act(script: Script) -> None:
        await go_on.wait()
        while (message := await script.hear())[0] != 0x88:
            heard.append(message[1])
        await script.say(CLOSE, b"\x03\xe8")

    async def main() -> None:
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for number in range(MANY):
                await socket.send(number.to_bytes(4, "big") * 1024)
                sent += 1

        async with playing(act) as stage:
            socket = await stage.open()
            sending = asyncio.ensure_future(send_all())
            await asyncio.sleep(0.3)
            before = sent
            await asyncio.sleep(0.2)
            assert sent == before < MANY
            transport = socket._conn._transport
            assert transport.get_write_buffer_size() < 200_000
            go_on.set()
            await sending
            await socket.close(Close(1000))

    run(main(), loop=loop, seconds=60)
    assert heard == [number.to_bytes(4, "big") * 1024 for number in range(MANY)]


@loops
def test_an_upstream_that_takes_nothing(loop: str) -> None:
    never = asyncio.Event()

    async def act(_script: Script) -> None:
        await never.wait()

    async def main() -> None:
        async with playing(act, timeouts=Timeouts(write=0.3)) as stage:
            socket = await stage.open()
            with pytest.raises(UpstreamTimeout):
                await send_on(socket)
            end = await socket.receive()
            assert isinstance(end, Close)
            assert end.code == 1006
            with pytest.raises(UpstreamTimeout):
                await socket.send("x")
            never.set()
            await stage.peer.settled()

    run(main(), loop=loop)


async def send_on(socket: Any) -> None:
    while True:
        await socket.send(bytes(100_000))


def test_a_close_ends_the_wait_of_a_sender() -> None:
    async def act(script: Script) -> None:
        await waits.wait()
        await script.say(CLOSE, b"\x03\xe8")
        await script.wire.skip(2**40)

    waits = asyncio.Event()

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            sending = asyncio.ensure_future(send_on(socket))
            await until(lambda: socket._conn.paused)
            waits.set()
            with pytest.raises(ConnectionBroken):
                await sending
            assert await socket.receive() == Close(1000)

    run(main())


@loops
def test_pings_that_find_no_room_are_answered_by_the_last(loop: str) -> None:
    """Or an upstream that pings and does not read would fill our memory with pongs."""
    go_on = asyncio.Event()
    pongs: list[bytes] = []

    async def act(script: Script) -> None:
        await script.say(TEXT, b"go")
        await go_on.wait()
        script.wire.writer.write(
            b"".join(frame(PING, b"%d" % number) for number in range(20_000)) + frame(TEXT, b"end")
        )
        await ended.wait()
        while (message := await script.hear())[0] != 0x88:
            if message[0] == 0x80 | PONG:
                pongs.append(message[1])
        await script.say(CLOSE, b"\x03\xe8")

    ended = asyncio.Event()

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            assert await socket.receive() == "go"
            sending = asyncio.ensure_future(socket.send(bytes(24 * 2**20)))
            await until(lambda: socket._conn.paused)
            size = socket._conn._transport.get_write_buffer_size()
            go_on.set()
            assert await socket.receive() == "end"
            assert socket._conn._transport.get_write_buffer_size() <= size
            ended.set()
            await sending
            await socket.send("sent")
            await socket.close(Close(1000))

    run(main(), loop=loop)
    assert pongs == [b"19999"]


def test_a_long_session_takes_no_more_memory_than_a_short_one() -> None:
    async def act(script: Script) -> None:
        while (await script.hear())[0] != 0x88:
            script.frames.clear()
            await script.send(frame(TEXT, b"y" * 300) * 5)
        await script.say(CLOSE, b"\x03\xe8")

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()

            async def talk(count: int) -> int:
                for _ in range(count):
                    await socket.send(bytes(3200))
                    for _ in range(5):
                        await socket.receive()
                return tracemalloc.get_traced_memory()[0]

            await talk(100)
            tracemalloc.start()
            try:
                first = await talk(200)
                assert await talk(1000) - first < 50_000
            finally:
                tracemalloc.stop()
            await socket.close(Close(1000))

    run(main(), seconds=60)
