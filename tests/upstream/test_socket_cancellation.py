"""Cancelled at every step of the loop: no socket, no timer, no task, no complaint is left behind."""

from __future__ import annotations

import asyncio
import gc
import ssl
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from keypool_asgi.core.sessions import Close
from keypool_asgi.testing.simulator.sockets.frames import frame
from keypool_asgi.upstream.sockets.socket import NativeSocket

from .socket_tools import CLOSE, TEXT, Script, ended, playing
from .test_connection import certificate, loops, server_context  # noqa: F401 - the certificate is a fixture
from .tools import run, until

STEPS = 30
"""How many steps of the loop a whole operation takes at most, TLS included; each of them is interrupted once."""

OF_THE_SERVER = "Error on transport creation for incoming connection"
"""What asyncio says of a TLS handshake that the client has cut."""

tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


async def act(script: Script) -> None:
    """Speak, listen, and answer the close."""
    await script.say(TEXT, b"Begin")
    code, _ = await script.hear_close()
    await script.say(CLOSE, code.to_bytes(2, "big") if code else b"")


def play(main: Callable[[], Awaitable[None]], loop: str) -> None:
    """Run in asyncio's debug mode, with everything that it complains about as a failure."""
    complaints: list[dict[str, Any]] = []

    async def debugged() -> None:
        running = asyncio.get_running_loop()
        running.set_debug(True)
        running.slow_callback_duration = 60
        running.set_exception_handler(lambda _, context: complaints.append(context))
        await main()
        gc.collect()
        await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(debugged(), loop=loop, seconds=60)
        gc.collect()
    assert [each for each in complaints if each["message"] != OF_THE_SERVER] == []


@asynccontextmanager
async def stage_for(path: Any, *, over_tls: bool, **settings: Any) -> AsyncIterator[Any]:
    server = server_context(path) if over_tls else None
    client = ssl.create_default_context(cafile=str(path)) if over_tls else None
    async with playing(act, server=server, client=client, closing_seconds=5, **settings) as stage:
        yield stage


async def steps(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def open_connections(stage: Any) -> int:
    return len(stage.sockets._connections._open)


@loops
@tls
def test_open(loop: str, tls: bool, certificate: Any) -> None:  # noqa: F811
    async def main() -> None:
        async with stage_for(certificate, over_tls=tls) as stage:
            opened = 0
            for number in range(4 * STEPS):
                task = asyncio.ensure_future(stage.open())
                await steps(number) if number < STEPS else await asyncio.sleep((number - STEPS) / 10_000)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(result, NativeSocket):
                    opened += 1
                    result.abort()
                else:
                    assert isinstance(result, asyncio.CancelledError)
                await until(lambda: open_connections(stage) == 0)
            await stage.peer.settled()
            assert opened < 4 * STEPS

    play(main, loop)


@loops
@tls
@pytest.mark.parametrize("operation", ["send", "receive", "close"])
def test_on_an_open_socket(loop: str, tls: bool, operation: str, certificate: Any) -> None:  # noqa: F811
    async def main() -> None:
        async with stage_for(certificate, over_tls=tls) as stage:
            for number in range(8):
                socket = await stage.open()
                if operation == "receive":
                    assert await socket.receive() == "Begin"
                task = asyncio.ensure_future(begin(operation, socket))
                await steps(number)
                task.cancel()
                (result,) = await asyncio.gather(task, return_exceptions=True)
                assert result is None or isinstance(result, asyncio.CancelledError)
                if operation == "close" and result is not None and number:
                    assert isinstance(await rest(socket), Close)  # without anybody's abort
                socket.abort()
                await until(lambda: open_connections(stage) == 0)
            await stage.peer.settled()

    play(main, loop)


async def begin(operation: str, socket: NativeSocket) -> None:
    if operation == "send":
        await socket.send(bytes(24 * 2**20))  # more than there is room for
    elif operation == "receive":
        await socket.receive()
    else:
        await socket.close(Close(1000))


async def rest(socket: NativeSocket) -> object:
    while not isinstance(message := await socket.receive(), Close):
        pass
    return message


@loops
def test_a_cancelled_close_cuts_the_connection(loop: str) -> None:
    async def deaf(script: Script) -> None:
        assert await script.hear_close() == (1000, "")
        assert await script.to_end() == b""

    async def main() -> None:
        async with playing(deaf) as stage:
            socket = await stage.open()
            closing = asyncio.ensure_future(socket.close(Close(1000)))
            await asyncio.sleep(0.01)
            await ended(closing)
            await stage.peer.settled()
            assert (await socket.receive()) == Close(1006, "the connection was cut here")

    play(main, loop)


@loops
def test_a_message_that_comes_as_its_receiver_is_cancelled_is_not_lost(loop: str) -> None:
    async def main() -> None:
        async with playing(Script.to_end) as stage:
            socket = await stage.open()
            for number in range(5):
                receiving = asyncio.ensure_future(socket.receive())
                await asyncio.sleep(0)
                socket.on_data(frame(TEXT, b"%d" % number))
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
                assert receiving.cancelled()
                assert await socket.receive() == str(number)
            socket.abort()

    play(main, loop)


def test_no_timer_is_left() -> None:
    async def main() -> None:
        async with playing(act, ping_seconds=1000) as stage:
            for how in ("close", "abort"):
                socket = await stage.open()
                await (socket.close(Close(1000)) if how == "close" else steps(1))
                socket.abort()
                await until(lambda: open_connections(stage) == 0)
            await stage.peer.settled()
        timers = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert [timer for timer in timers if "upstream" in repr(timer)] == []

    run(main())


def test_a_session_is_gone_with_its_last_reference() -> None:
    """Nothing of a socket waits for the collector but its connection, which is empty by then."""

    async def main() -> None:
        async with playing(act) as stage:
            socket = await stage.open()
            reader = socket._reader
            await socket.close(Close(1000))
            await stage.peer.settled()
            assert socket._conn.exchange is None
            gc.disable()
            try:
                gone = weakref.ref(reader._decoder)
                del socket, reader
                await asyncio.sleep(0.01)
                assert gone() is None
            finally:
                gc.enable()

    run(main())
