"""Sessions with the simulator: its protocol is another implementation's, and it notes whatever breaks a rule."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import secret

from keypool_asgi.core.messages import Origin, RequestHead
from keypool_asgi.core.sessions import Close, SessionLimits
from keypool_asgi.errors import ConnectionBroken, ProtocolViolation, UpgradeRefused, UpstreamTimeout
from keypool_asgi.testing import INVALID_FRAMES, Fault, Simulator, SocketFault, silence_wav
from keypool_asgi.upstream.sockets import NativeSockets
from keypool_asgi.upstream.sockets.socket import NativeSocket

from .socket_tools import drain
from .test_connection import certificate, loops, server_context  # noqa: F401 - the certificate is a fixture
from .tools import run, until

KEY = secret("simulated")


@asynccontextmanager
async def simulated(
    *, echo: bool = False, tls: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None, **limits: Any
) -> AsyncIterator[tuple[Simulator, NativeSockets]]:
    simulator = Simulator({KEY: "account-1/project-1"}, echo=echo, tls=tls)
    sockets = NativeSockets(limits=SessionLimits(**limits), ssl_context=client)
    async with simulator.serving():
        yield simulator, sockets
        await until(lambda: not simulator.open_requests)
        await sockets.aclose()
    assert simulator.violations == []


async def open_session(simulator: Simulator, sockets: NativeSockets, *, patience: float = 10) -> NativeSocket:
    origin = Origin.parse(simulator.origins["streaming"])
    target = origin.path.encode() + b"/v3/ws?sample_rate=16000"
    headers = [(b"Host", origin.authority), (b"Authorization", KEY.encode())]
    return await sockets.open(RequestHead(b"GET", origin, target, headers, patience))


@loops
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_a_session(loop: str, over_tls: bool, certificate: Any) -> None:  # noqa: F811
    async def main() -> None:
        server = server_context(certificate) if over_tls else None
        client = ssl.create_default_context(cafile=str(certificate)) if over_tls else None
        async with simulated(tls=server, client=client) as (simulator, sockets):
            socket = await open_session(simulator, sockets)
            assert '"type":"Begin"' in str(await socket.receive())
            for _ in range(20):
                await socket.send(silence_wav(0.1)[44:])
            await socket.send('{"type": "Terminate"}')
            said = await drain(socket)
            assert '"type":"Termination"' in str(said[-2])
            assert said[-1] == Close(1000)
            await socket.close(Close(1000))
            session = simulator.sessions[0]
            assert (session.state, session.audio_bytes) == ("terminated", 64_000)
            assert session.client_close == (1000, "")

    run(main(), loop=loop)


@pytest.mark.parametrize("message", ["", b"", "é\x00\U0001f600", bytes(range(256)), "x" * 65_536, b"y" * 1_000_000])
def test_an_echo(message: str | bytes) -> None:
    async def main() -> None:
        async with simulated(echo=True) as (simulator, sockets):
            socket = await open_session(simulator, sockets)
            await socket.receive()
            for _ in range(3):
                await socket.send(message)
            assert [await socket.receive() for _ in range(3)] == [message] * 3
            await socket.close(Close(4321, "enough"))
            assert await socket.receive() == Close(4321, "enough")
            assert simulator.sessions[0].client_close == (4321, "enough")

    run(main())


@pytest.mark.parametrize(
    ("fault", "said", "end"),
    [
        (SocketFault.closed(3005, "Session cancelled"), [], (3005, "Session cancelled")),
        (SocketFault.closed(None), [], (1005, "")),
        (SocketFault.empty().and_then(SocketFault.closed(1000)), ["", b""], (1000, "")),
        (
            SocketFault.fragmented("größe" * 20, 7, pings=2).and_then(SocketFault.closed(1000)),
            ["größe" * 20],
            (1000, ""),
        ),
        (SocketFault.pinged(1000, b"flood").and_then(SocketFault.closed(1001)), [], (1001, "")),
        (SocketFault.dropped("fin"), [], (1006, None)),
        (SocketFault.dropped("reset"), [], (1006, None)),
        (SocketFault.giant(2_000_000), [], (1009, None)),
        (SocketFault.giant(2_000_000, binary=True), [], (1009, None)),
        *((SocketFault.invalid(kind), [], (1006, None)) for kind in INVALID_FRAMES),
    ],
)
def test_faults_of_a_session(fault: SocketFault, said: list[str | bytes], end: tuple[int, str | None]) -> None:
    async def main() -> None:
        async with simulated() as (simulator, sockets):
            simulator.fail(fault)
            socket = await open_session(simulator, sockets)
            received = await drain(socket)
            assert received[1:-1] == said
            close = received[-1]
            assert isinstance(close, Close)
            assert close.code == end[0]
            assert close.reason == end[1] if end[1] is not None else close.reason

    run(main())


def test_silence() -> None:
    async def main() -> None:
        async with simulated(ping_seconds=0.2) as (simulator, sockets):
            simulator.fail(SocketFault.stalled())
            socket = await open_session(simulator, sockets)
            end = (await drain(socket))[-1]
            assert isinstance(end, Close)
            assert end.code == 1006
            simulator.release()

    run(main())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(401, {"error": "no"}), UpgradeRefused),
        (Fault.status(503, {"error": "no"}), UpgradeRefused),
        (Fault.stalled(), UpstreamTimeout),
        (Fault.malformed("garbage"), ProtocolViolation),
        (Fault.reset(), ConnectionBroken),
        (Fault.fin(), ConnectionBroken),
        (SocketFault.fields((b"Sec-WebSocket-Accept", b"nonsense")), ProtocolViolation),
        (SocketFault.fields((b"Sec-WebSocket-Protocol", b"unasked")), ProtocolViolation),
        (SocketFault.fields((b"Sec-WebSocket-Extensions", b"permessage-deflate")), ProtocolViolation),
        (SocketFault.fields((b"Upgrade", b"h2c")), ProtocolViolation),
    ],
)
def test_faults_of_the_upgrade(fault: Fault | SocketFault, error: type[Exception]) -> None:
    async def main() -> None:
        async with simulated() as (simulator, sockets):
            simulator.fail(fault, times=1)
            with pytest.raises(error) as caught:
                await open_session(simulator, sockets, patience=0.5)
            assert type(caught.value) is error
            if isinstance(caught.value, UpgradeRefused):
                assert caught.value.body == b'{"error": "no"}'
            socket = await open_session(simulator, sockets)
            assert '"type":"Begin"' in str(await socket.receive())
            socket.abort()

    run(main())


@loops
def test_many_sessions_at_once(loop: str) -> None:
    async def talk(simulator: Simulator, sockets: NativeSockets, number: int) -> None:
        socket = await open_session(simulator, sockets)
        await socket.receive()
        for count in range(10):
            message = f"{number}-{count}" if count % 2 else bytes([number, count]) * 500
            await socket.send(message)
            assert await socket.receive() == message
        await socket.close(Close(1000))

    async def main() -> None:
        async with simulated(echo=True) as (simulator, sockets):
            await asyncio.gather(*(talk(simulator, sockets, number) for number in range(30)))

    run(main(), loop=loop)
