"""Scripted servers on real sockets, and the few steps that every test takes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from keypool_asgi.core.messages import Headers, Origin, RequestHead, ResponseHead
from keypool_asgi.ports import UpstreamCall, UpstreamClient

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handler = Callable[["Wire"], Awaitable[None]]


def run(main: Coroutine[Any, Any, Any], *, seconds: float = 20, loop: str = "asyncio") -> Any:
    """Run a test on a loop of its own. The bound is there to end a hang, not to measure."""

    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    if loop == "uvloop":
        import uvloop

        return uvloop.run(bounded())
    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces; the bound is ``run``'s."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class Wire:
    """One connection as the scripted server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    async def request(self) -> tuple[bytes, bytes]:
        """Read one request: its head and its body, decoded. Raises IncompleteReadError where it is cut."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = bytearray()
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            return head, bytes(body)
        if b"content-length: " in lower:
            return head, await self.reader.readexactly(int(lower.split(b"content-length: ")[1].split(b"\r")[0]))
        return head, b""

    async def skip(self, size: int) -> None:
        while size:
            data = await self.reader.read(min(size, 2**20))
            if not data:
                raise asyncio.IncompleteReadError(data, size)
            size -= len(data)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.01)

    def reset(self) -> None:
        """Close with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Peer:
    """A server: counts its connections, and notes the requests that its handlers read completely."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.broken = 0
        self.origin: Origin

    async def settled(self, *, open_connections: int = 0) -> None:
        await until(lambda: self.open == open_connections)


@asynccontextmanager
async def serve(handler: Handler, *, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Serve each connection with ``handler``; the connection is closed after it."""
    peer = Peer()
    tasks: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer.connections += 1
        peer.open += 1
        wire = Wire(reader, writer, peer.connections)
        try:
            await handler(wire)
        except (asyncio.IncompleteReadError, ConnectionError):
            peer.broken += 1
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            peer.open -= 1
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass
            except asyncio.CancelledError:  # it has something to send that nobody reads
                writer.transport.abort()
                await asyncio.sleep(0)
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context, limit=2**20)
    scheme = "https" if context else "http"
    peer.origin = Origin(scheme, "127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield peer
    finally:
        await asyncio.sleep(0.01)  # asyncio loses what is accepted while a server closes; let that have its handler
        server.close()
        for task in list(tasks):
            task.cancel()
        await until(lambda: not tasks)
        await server.wait_closed()


def answering(peer_requests: list[tuple[bytes, bytes]] | None, *pieces: bytes, close: bool = False) -> Handler:
    """Answer each request with the same bytes, piece by piece."""

    async def handler(wire: Wire) -> None:
        while not wire.reader.at_eof():
            try:
                request = await wire.request()
            except asyncio.IncompleteReadError as exc:
                if exc.partial:
                    raise
                return
            if peer_requests is not None:
                peer_requests.append(request)
            await wire.send(*pieces)
            if close:
                return

    return handler


def request(
    origin: Origin, method: bytes = b"GET", target: bytes = b"/", *, headers: Headers = (), patience: float = 10
) -> RequestHead:  # type: ignore[assignment]
    return RequestHead(method, origin, target, [(b"host", origin.authority), *headers], patience)


def sized(size: int) -> Headers:
    return [(b"content-length", b"%d" % size)]


CHUNKED: Headers = [(b"transfer-encoding", b"chunked")]


async def read_all(call: UpstreamCall) -> bytes:
    body, more = b"", True
    while more:
        data, more = await call.read()
        body += data
    return body


async def fetch(
    client: UpstreamClient, origin: Origin, method: bytes = b"GET", body: bytes | None = None, **kwargs: Any
) -> tuple[ResponseHead, bytes]:
    """One whole exchange, written as the forwarder would."""
    headers = list(kwargs.pop("headers", ())) + (sized(len(body)) if body is not None else [])
    call = await client.open(request(origin, method, headers=headers, **kwargs))
    try:
        if body:
            await call.write(body)
        await call.finish()
        return await call.head(), await read_all(call)
    finally:
        call.close()
