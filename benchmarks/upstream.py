"""Our own upstream: small answers, a sink for uploads and a source of downloads, on asyncio and httptools.

The query of a request tells it how to behave: ``peer=fast|slow|stalled`` for how an upload is read, ``bytes=N`` for
how long an answer is.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httptools

from .answers import SMALL_ANSWER

__all__ = ["SLOW_BYTES_PER_SECOND", "STALL_SECONDS", "serve"]

SLOW_BYTES_PER_SECOND = 25_000_000
STALL_SECONDS = 3.0

_STALL_AT = 8 * 1024**2
_PIECE = bytes(256 * 1024)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection. It reads requests one by one; nothing is sent before the request has ended."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.options: dict[str, str] = {}
        self.path = ""
        self.received = 0
        self.began = 0.0
        self.stalled = False
        self.sending = 0
        self.writable = True

    def connection_made(self, transport: Any) -> None:
        """Keep the kernel's buffer small: what is not read is to be felt soon."""
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)

    def data_received(self, data: bytes) -> None:
        """Parse, and read on later if this peer is slow."""
        self.parser.feed_data(data)
        seconds = self._pause()
        if seconds > 0.001:
            self.transport.pause_reading()
            self.loop.call_later(seconds, self._resume)

    def on_url(self, url: bytes) -> None:
        """Begin a request."""
        target = urlsplit(url.decode("ascii"))
        self.path = target.path
        self.options = {name: values[0] for name, values in parse_qs(target.query).items()}
        self.received, self.stalled, self.began = 0, False, self.loop.time()

    def on_body(self, data: bytes) -> None:
        """Count and forget."""
        self.received += len(data)

    def on_message_complete(self) -> None:
        """Answer."""
        if "bytes" in self.options:
            self.sending = int(self.options["bytes"])
            self.transport.write(_HEAD % (b"audio/wav", self.sending))
            self._send()
            return
        body = SMALL_ANSWER
        if self.path == "/v2/upload":
            body = b'{"upload_url":"https://cdn.assemblyai.com/upload/bench","received":%d}' % self.received
        self.transport.write(_HEAD % (b"application/json", len(body)) + body)

    def pause_writing(self) -> None:
        """Wait for the reader."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self.writable = True
        self._send()

    def _send(self) -> None:
        while self.sending and self.writable:
            piece = _PIECE[: self.sending]
            self.sending -= len(piece)
            self.transport.write(piece)

    def _pause(self) -> float:
        """Seconds for which this peer reads no more."""
        peer = self.options.get("peer")
        if peer == "slow":
            return self.received / SLOW_BYTES_PER_SECOND - (self.loop.time() - self.began)
        if peer == "stalled" and not self.stalled and self.received > _STALL_AT:
            self.stalled = True
            return STALL_SECONDS
        return 0.0

    def _resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


async def serve(sock: socket.socket) -> None:
    """Serve until cancelled."""
    server = await asyncio.get_running_loop().create_server(Upstream, sock=sock)
    await server.serve_forever()
