"""A scripted WebSocket server: the upgrade as it should be, then frame by frame."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from harness import secret

from keypool_asgi.core.messages import Origin, RequestHead
from keypool_asgi.core.sessions import Close, SessionLimits
from keypool_asgi.testing.simulator.sockets.frames import frame
from keypool_asgi.upstream import Timeouts
from keypool_asgi.upstream.sockets import NativeSockets
from keypool_asgi.upstream.sockets.socket import NativeSocket

from .tools import Peer, Wire, serve

KEY = secret("sockets")

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def upgrade_head(origin: Origin, *fields: tuple[bytes, bytes], patience: float = 10) -> RequestHead:
    headers = [(b"Host", origin.authority), (b"authorization", KEY.encode()), *fields]
    return RequestHead(b"GET", origin, b"/v3/ws?sample_rate=16000", headers, patience)


def accept_of(head: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a request, computed apart from the code under test."""
    key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r")[0]
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def switch(head: bytes, *fields: bytes) -> bytes:
    """A 101 that accepts."""
    own = [b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: " + accept_of(head)]
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *own, *fields, b"", b""])


@dataclass
class Script:
    """One connection of the server, and what has come on it."""

    wire: Wire
    request: bytes = b""
    frames: list[tuple[int, bytes]] = field(default_factory=list)

    async def send(self, *pieces: bytes) -> None:
        await self.wire.send(*pieces)

    async def say(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        await self.wire.send(frame(opcode, payload, **how))

    async def hear(self) -> tuple[int, bytes]:
        """Read one frame of the client: its first byte and its payload; it must be masked, and its length minimal."""
        first, second = await self.wire.reader.readexactly(2)
        assert second & 0x80, "a client's frame must be masked"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(await self.wire.reader.readexactly(2), "big")
            assert size > 125
        elif size == 127:
            size = int.from_bytes(await self.wire.reader.readexactly(8), "big")
            assert size > 65_535
        mask = await self.wire.reader.readexactly(4)
        masked = await self.wire.reader.readexactly(size)
        pattern = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(masked, "big") ^ pattern).to_bytes(size, "big")
        self.frames.append((first, payload))
        return first, payload

    async def hear_close(self) -> tuple[int | None, str]:
        """Read up to the client's close frame."""
        while True:
            first, payload = await self.hear()
            if first == 0x80 | CLOSE:
                return (int.from_bytes(payload[:2], "big") if payload else None), payload[2:].decode()

    async def to_end(self) -> bytes:
        """Read whatever still comes, until the client ends the connection."""
        try:
            return await self.wire.reader.read()
        except ConnectionError:
            return b""


Act = Callable[[Script], Awaitable[None]]


@dataclass
class Stage:
    """The server, and the sockets that dial it."""

    peer: Peer
    sockets: NativeSockets
    scripts: list[Script] = field(default_factory=list)

    async def open(self, *fields: tuple[bytes, bytes], patience: float = 10) -> NativeSocket:
        return await self.sockets.open(upgrade_head(self.peer.origin, *fields, patience=patience))


@asynccontextmanager
async def playing(
    act: Act | None = None,
    *,
    answer: Callable[[bytes], bytes | None] = switch,
    timeouts: Timeouts | None = None,
    server: ssl.SSLContext | None = None,
    client: ssl.SSLContext | None = None,
    **limits: Any,
) -> AsyncIterator[Stage]:
    """Serve sessions: ``answer`` makes of a request head what is answered, ``act`` is played then."""
    scripts: list[Script] = []

    async def handler(wire: Wire) -> None:
        script = Script(wire)
        scripts.append(script)
        script.request = await wire.reader.readuntil(b"\r\n\r\n")
        answered = answer(script.request)
        if answered is not None:
            await wire.send(answered)
        if act is not None:
            await act(script)

    timeouts = timeouts or Timeouts(connect=5, write=5)
    sockets = NativeSockets(timeouts=timeouts, limits=SessionLimits(**limits), ssl_context=client)
    async with serve(handler, context=server) as peer:
        try:
            yield Stage(peer, sockets, scripts)
        finally:
            await sockets.aclose()


async def drain(socket: NativeSocket) -> list[str | bytes | Close]:
    """Receive up to the end, which is the last item."""
    received: list[str | bytes | Close] = []
    while not (received and isinstance(received[-1], Close)):
        received.append(await socket.receive())
    return received


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
