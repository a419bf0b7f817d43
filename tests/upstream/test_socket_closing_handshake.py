"""How a socket ends (RFC 6455, section 7): who closes, what is told to whom, and what is left: nothing."""

from __future__ import annotations

import asyncio

import pytest

from keypool_asgi.core.sessions import Close
from keypool_asgi.errors import ConnectionBroken
from keypool_asgi.testing.simulator.sockets.frames import frame
from keypool_asgi.upstream.sockets import socket as sockets
from keypool_asgi.upstream.sockets.socket import NativeSocket

from .socket_tools import BINARY, CLOSE, PING, TEXT, Script, drain, playing
from .test_connection import loops
from .tools import run


@loops
@pytest.mark.parametrize(
    ("close", "on_the_wire"),
    [
        (Close(1000), (1000, "")),
        (Close(1000, "done"), (1000, "done")),
        (Close(4999, "x" * 200), (4999, "x" * 123)),
        (Close(3000, "€" * 42), (3000, "€" * 41)),
        (Close(1005), (None, "")),
        (Close(1006, "lost"), (None, "")),
        (Close(1015), (None, "")),
        (Close(1004), (None, "")),
        (Close(0), (None, "")),
        (Close(70_000), (None, "")),
    ],
)
def test_we_close(loop: str, close: Close, on_the_wire: tuple[int | None, str]) -> None:
    heard: list[tuple[int | None, str]] = []

    async def act(script: Script) -> None:
        heard.append(await script.hear_close())
        await script.say(CLOSE, b"\x03\xe9upstream's own")

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            await socket.close(close)
            await stage.peer.settled()
            await socket.close(Close(1000))
            assert await socket.receive() == Close(1001, "upstream's own")
            assert await socket.receive() == Close(1001, "upstream's own")

    run(main(), loop=loop)
    assert heard == [on_the_wire]


@loops
def test_upstream_closes(loop: str) -> None:
    async def act(script: Script) -> None:
        await script.send(frame(TEXT, b"last") + frame(CLOSE, b"\x0b\xbdSession cancelled"))
        assert await script.hear_close() == (3005, "Session cancelled")
        # The server ends TCP, so that its port is not left waiting: RFC 6455, section 7.1.1.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(script.wire.reader.read(), 0.1)

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            await asyncio.sleep(0.01)
            assert await drain(socket) == ["last", Close(3005, "Session cancelled")]
            with pytest.raises(ConnectionBroken):
                await socket.send("too late")
            await stage.peer.settled()
            await socket.close(Close(1000))
            assert await socket.receive() == Close(3005, "Session cancelled")

    run(main(), loop=loop)


def test_a_server_that_does_not_end_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LINGER_SECONDS", 0.1)

    async def act(script: Script) -> None:
        await script.say(CLOSE, b"\x03\xe8")
        assert await script.hear_close() == (1000, "")
        assert await script.to_end() == b""

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            assert await socket.receive() == Close(1000)
            await stage.peer.settled()

    run(main())


def test_a_server_that_does_not_answer_a_close() -> None:
    async def act(script: Script) -> None:
        assert await script.hear_close() == (1000, "")
        await script.say(PING, b"still here")  # it is heard, but nothing is sent after a close frame
        assert await script.to_end() == b""

    async def main() -> None:
        async with playing(act, closing_seconds=0.2) as stage:
            socket = await stage.open()
            await socket.close(Close(1000))
            end = await socket.receive()
            assert isinstance(end, Close)
            assert end.code == 1006
            assert "0.2" in end.reason
            await stage.peer.settled()

    run(main())


def test_what_still_comes_while_we_close_can_be_received() -> None:
    async def act(script: Script) -> None:
        await script.hear_close()
        await script.say(TEXT, b"closing figures")
        await script.say(CLOSE, b"\x03\xe8")

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            closing = asyncio.ensure_future(socket.close(Close(1000)))
            await asyncio.sleep(0)
            with pytest.raises(ConnectionBroken):
                await socket.send("no more")
            assert await drain(socket) == ["closing figures", Close(1000)]
            await closing

    run(main())


def test_both_close_at_once() -> None:
    async def act(script: Script) -> None:
        await script.say(CLOSE, b"\x03\xe9")
        assert await script.hear_close() == (1000, "")

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            await asyncio.gather(socket.close(Close(1000)), socket.close(Close(3000)))
            assert await socket.receive() == Close(1001)

    run(main())


def test_closing_does_not_wait_for_who_does_not_receive() -> None:
    """What is too much for the buffers is dropped, or the peer's close frame would never be reached."""

    async def act(script: Script) -> None:
        await script.send(frame(TEXT, b"x" * 100) * 200)
        await script.hear_close()
        await script.say(CLOSE, b"\x03\xe8")

    async def main() -> None:
        async with playing(act, buffered_messages=4) as stage:
            socket = await stage.open()
            await asyncio.sleep(0.05)
            await socket.close(Close(1000))
            await stage.peer.settled()
            received = await drain(socket)
            assert received[-1] == Close(1000)
            assert 4 <= len(received) <= 6

    run(main())


@loops
@pytest.mark.parametrize("how", ["fin", "reset", "half a frame"])
@pytest.mark.parametrize("waiting", [False, True])
def test_an_end_without_a_close_frame(loop: str, how: str, waiting: bool) -> None:
    async def act(script: Script) -> None:
        await script.say(TEXT, b"last")
        await script.hear()
        if how == "reset":
            script.wire.reset()
        elif how == "half a frame":
            await script.send(frame(BINARY, bytes(100))[:50])

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            if waiting:
                assert await socket.receive() == "last"
                receiving = asyncio.ensure_future(drain(socket))
                await asyncio.sleep(0)
                await socket.send("go on")
                (end,) = await receiving
            else:
                await socket.send("go on")
                await stage.peer.settled()
                await asyncio.sleep(0.01)
                last, end = await drain(socket)
                assert last == "last"
            assert isinstance(end, Close)
            assert end.code == 1006
            assert "without a close frame" in end.reason
            with pytest.raises(ConnectionBroken):
                await socket.send("too late")
            await socket.close(Close(1000))
            socket.abort()
            assert await socket.receive() == end

    run(main(), loop=loop)


async def send_on(socket: NativeSocket) -> None:
    while True:
        await socket.send(bytes(100_000))


@loops
def test_what_was_said_before_a_reset_is_heard(loop: str) -> None:
    """A refusal is told, the session closed, and the audio that still comes is answered by a reset."""

    async def act(script: Script) -> None:
        await script.hear()
        await script.send(frame(TEXT, b"Unauthorized") + frame(CLOSE, b"\x03\xf0Unauthorized"))
        script.wire.reader.feed_eof()  # what has come unread makes the kernel send a reset

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            with pytest.raises(ConnectionBroken):
                await send_on(socket)
            assert await drain(socket) == ["Unauthorized", Close(1008, "Unauthorized")]
            await stage.peer.settled()

    run(main(), loop=loop)


@loops
def test_an_abort_sends_nothing_and_wakes_everybody(loop: str) -> None:
    rest: list[bytes] = []

    async def act(script: Script) -> None:
        rest.append(await script.to_end())

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            receiving = asyncio.ensure_future(socket.receive())
            await asyncio.sleep(0.01)
            socket.abort()
            socket.abort()
            end = await receiving
            assert isinstance(end, Close)
            assert end.code == 1006
            with pytest.raises(ConnectionBroken):
                await socket.send("x")
            await socket.close(Close(1000))
            await stage.peer.settled()

    run(main(), loop=loop)
    assert rest == [b""]


def test_an_abort_ends_a_close() -> None:
    async def act(script: Script) -> None:
        await script.to_end()

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            closing = asyncio.ensure_future(socket.close(Close(1000)))
            await asyncio.sleep(0.01)
            socket.abort()
            await closing
            await stage.peer.settled()

    run(main())
