"""Signs of life: pings both ways, and when a silent upstream counts as gone."""

from __future__ import annotations

import asyncio

import pytest

from keypool_asgi.core.sessions import Close
from keypool_asgi.testing.simulator.sockets.frames import frame

from .socket_tools import BINARY, CLOSE, PING, PONG, TEXT, Script, drain, playing
from .test_connection import loops
from .tools import run

SPAN = 0.15


@loops
def test_silence_is_pinged_and_then_the_end(loop: str) -> None:
    heard: list[tuple[int, bytes]] = []

    async def act(script: Script) -> None:
        heard.append(await script.hear())
        assert await script.to_end() == b""

    async def main() -> None:
        async with playing(act, ping_seconds=SPAN) as stage:
            socket = await stage.open()
            end = await socket.receive()
            assert isinstance(end, Close)
            assert end.code == 1006
            assert "ping" in end.reason
            await stage.peer.settled()

    run(main(), loop=loop)
    assert heard == [(0x80 | PING, b"")]


@pytest.mark.parametrize("sign", [frame(PONG), frame(PONG, b"unasked"), frame(PING, b"x"), frame(TEXT, b"hm")])
def test_any_frame_is_a_sign_of_life(sign: bytes) -> None:
    async def act(script: Script) -> None:
        for _ in range(3):
            while (await script.hear())[0] != 0x80 | PING:
                pass
            await script.send(sign)
        await script.say(CLOSE, b"\x03\xe8")

    async def main() -> None:
        async with playing(act, ping_seconds=SPAN) as stage:
            socket = await stage.open()
            received = await drain(socket)
            assert received[-1] == Close(1000)
            assert received[:-1] == (["hm"] * 3 if sign[0] == 0x81 else [])

    run(main())


def test_who_speaks_is_not_pinged() -> None:
    async def act(script: Script) -> None:
        listening = asyncio.ensure_future(script.hear_close())
        for _ in range(20):
            await script.say(TEXT, b"x")
            await asyncio.sleep(0.05)
        await script.say(CLOSE, b"\x03\xe8")
        await listening

    async def main() -> None:
        async with playing(act, ping_seconds=0.5) as stage:
            socket = await stage.open()
            assert len(await drain(socket)) == 21
            await stage.peer.settled()
            assert [first for first, _ in stage.scripts[0].frames] == [0x88]

    run(main())


@loops
def test_upstream_is_not_dead_while_we_do_not_read(loop: str) -> None:
    """Its pongs wait behind messages that our receiver has not taken."""

    async def act(script: Script) -> None:
        script.wire.writer.write(frame(BINARY, bytes(1000)) * 5000)
        await script.wire.writer.drain()
        while (first := (await script.hear())[0]) != 0x88:
            if first == 0x80 | PING:
                await script.say(PONG)

    async def main() -> None:
        async with playing(act, ping_seconds=SPAN, buffered_messages=4) as stage:
            socket = await stage.open()
            await asyncio.sleep(6 * SPAN)
            for _ in range(5000):
                assert await socket.receive() == bytes(1000)
            waiting = asyncio.ensure_future(socket.receive())
            await asyncio.sleep(4 * SPAN)
            assert not waiting.done()
            socket.abort()
            await waiting

    run(main(), loop=loop)


def test_upstream_is_not_dead_while_it_does_not_read() -> None:
    """The write timeout watches then; a ping would wait behind what is not taken."""
    go_on = asyncio.Event()

    async def act(script: Script) -> None:
        await go_on.wait()
        while (message := await script.hear())[0] != 0x82:
            pass
        await script.say(BINARY, message[1])
        await script.hear_close()
        await script.say(CLOSE, b"\x03\xe8")

    async def main() -> None:
        async with playing(act, ping_seconds=SPAN, message_bytes=2**25) as stage:
            socket = await stage.open()
            sending = asyncio.ensure_future(socket.send(bytes(24 * 2**20)))
            await asyncio.sleep(4 * SPAN)
            assert not sending.done()
            go_on.set()
            await sending
            assert await socket.receive() == bytes(24 * 2**20)
            await socket.close(Close(1000))

    run(main())


@loops
def test_a_ping_is_answered_while_nobody_receives(loop: str) -> None:
    async def act(script: Script) -> None:
        await script.say(PING, b"are you there")
        assert await script.hear() == (0x80 | PONG, b"are you there")

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            await stage.peer.settled()
            assert stage.peer.broken == 0
            end = await socket.receive()
            assert isinstance(end, Close)
            assert stage.scripts[0].frames == [(0x80 | PONG, b"are you there")]

    run(main(), loop=loop)
