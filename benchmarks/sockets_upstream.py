"""Our own upstream of sessions, on an ``asyncio.Protocol``: it numbers, counts and answers, and does nothing else.

The query of the upgrade tells it how to behave: ``every=N`` has one text of 250 bytes come back for N audio messages,
as if ``ahead=M`` of them had come before the first; ``echo=1`` has every message come back, ``stall=S`` has it read
nothing for S seconds, ``flood=N`` has it send N bytes at once. Messages are numbered from 0 by whoever sends them; what
comes out of order is counted.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .sockets_wire import BINARY, CLOSE, NUMBERED, PING, TEXT, Reader, accept_for, frame, pong

__all__ = ["FLOOD_PIECE", "SERVED", "TERMINATION", "TURN", "serve"]

SERVED = frame(TEXT, b'{"type":"Begin","id":"bench","expires_at":1800000000}', masked=False)
TURN = b'{"type":"Turn","number":%020d,"at":%020d,"transcript":"%b"}'
"""With the number of the last audio message and when it was sent."""

TERMINATION = (
    b'{"type":"Termination","received":%012d,"wrong":%06d,"audio_duration_seconds":1,"session_duration_seconds":1}'
)
"""Within ``KEEP`` bytes: how many messages have come, and how many of them out of order."""

FLOOD_PIECE = 16_384

_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
_WORDS = b"x" * 168
_NOT_HERE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.head: bytes | None = b""
        self.reader = Reader()
        self.options: dict[str, str] = {}
        self.received = self.wrong = self.next = self.flood = self.flooded = 0
        self.every, self.ahead, self.echo, self.writable = 0, 0, False, True

    def connection_made(self, transport: Any) -> None:
        """Keep the kernel's buffers small: what is not read is to be felt soon."""
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)

    def data_received(self, data: bytes) -> None:
        """Take the upgrade first, and frames then."""
        if self.head is not None:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self.head = self.head[:end], self.head[end + 4 :], None
            self._begin(head)
        for opcode, size, beginning in self.reader.read(data):
            if opcode == BINARY:
                self._audio(size, beginning)
            else:
                self._other(opcode, beginning)

    def pause_writing(self) -> None:
        """Wait for the reader."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self.writable = True
        self._flood()

    def _begin(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        key = fields.get(b"sec-websocket-key")
        if key is None:
            self.transport.write(_NOT_HERE)
            self.transport.close()
            return
        target = lines[0].split(b" ")[1].decode("ascii")
        self.options = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        self.every, self.echo = int(self.options.get("every", 0)), "echo" in self.options
        self.ahead = int(self.options.get("ahead", 0))
        self.transport.write(_SWITCH % accept_for(key) + SERVED)
        self.flood = int(self.options.get("flood", 0))
        self._flood()
        if "stall" in self.options:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(float(self.options["stall"]), self._read_on)

    def _audio(self, size: int, beginning: bytes) -> None:
        number, at = NUMBERED.unpack_from(beginning)
        self.received += 1
        self.wrong += number != self.next
        self.next = number + 1
        if self.echo:
            self.transport.write(frame(BINARY, beginning[:16] + bytes(size - 16), masked=False))
        elif self.every and (self.ahead + self.received) % self.every == 0:
            self.transport.write(frame(TEXT, TURN % (number, at, _WORDS), masked=False))

    def _other(self, opcode: int, beginning: bytes) -> None:
        if opcode == PING:
            self.transport.write(pong(beginning, masked=False))
        elif opcode == CLOSE:
            self.transport.write(frame(CLOSE, beginning[:2], masked=False))
            self.transport.close()
        elif b"Terminate" in beginning:
            figures = TERMINATION % (self.received, self.wrong)
            self.transport.write(frame(TEXT, figures, masked=False) + frame(CLOSE, b"\x03\xe8", masked=False))

    def _flood(self) -> None:
        while self.flood > 0 and self.writable:
            self.flood -= FLOOD_PIECE
            numbered = NUMBERED.pack(self.flooded, 0) + bytes(FLOOD_PIECE - NUMBERED.size)
            self.flooded += 1
            self.transport.write(frame(BINARY, numbered, masked=False))

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


async def serve(sock: socket.socket) -> None:
    """Serve until cancelled."""
    server = await asyncio.get_running_loop().create_server(Session, sock=sock)
    await server.serve_forever()
