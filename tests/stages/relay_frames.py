"""A caller of the relay that speaks frame by frame (RFC 6455, section 5), right or wrong, and what it gets back."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from faults.rig import PREFIX, TOKEN
from harness import RawConnection, Served

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "Frame", "FrameCaller", "calling", "masked"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\nUser-Agent: frames\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the server."""

    opcode: int
    payload: bytes
    fin: bool = True


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    """One frame of a client's; a mask of its own if none is given."""
    mask = os.urandom(4) if mask is None else mask
    size = len(payload)
    head = bytes([opcode | rsv | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    stream = (mask * (size // 4 + 1))[:size]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + mask + hidden.to_bytes(size, "big")


class FrameCaller:
    """A session with the pool that is open."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection
        self._data = b""

    def send(self, *frames: bytes) -> None:
        """Send frames, or any bytes, in one piece."""
        self._connection.send(b"".join(frames))

    def send_chopped(self, data: bytes, size: int = 1) -> None:
        """Send so few bytes at a time."""
        for start in range(0, len(data), size):
            self._connection.send(data[start : start + size])

    def frame(self) -> Frame:
        """Return the next frame.

        Raises:
            EOFError: the connection has ended.
            TimeoutError: none came.
        """
        first, second = self._take(2)
        assert not first & 0x70, "a reserved bit is set"
        assert not second & 0x80, "a server must not mask (RFC 6455, section 5.1)"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", self._take(2))
            assert size > 125, "a length is not written as shortly as can be"
        elif second == 127:
            (size,) = struct.unpack("!Q", self._take(8))
            assert size > 65_535, "a length is not written as shortly as can be"
        return Frame(first & 0x0F, self._take(size), bool(first & 0x80))

    def message(self) -> str | bytes:
        """Return the next message; pings and pongs before it are passed over."""
        pieces: list[bytes] = []
        opcode = None
        while True:
            frame = self.frame()
            if frame.opcode in (PING, PONG):
                continue
            assert frame.opcode != CLOSE, f"closed: {frame.payload!r}"
            assert (frame.opcode == CONTINUATION) == (opcode is not None)
            opcode = opcode or frame.opcode
            pieces.append(frame.payload)
            if frame.fin:
                return b"".join(pieces).decode() if opcode == TEXT else b"".join(pieces)

    def pong(self) -> bytes:
        """Return the payload of the next frame, which is a pong."""
        frame = self.frame()
        assert frame.opcode == PONG, frame
        return frame.payload

    def rest(self) -> list[Frame]:
        """Return all that still comes until the connection ends; a close frame is answered."""
        frames: list[Frame] = []
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                frames.append(self.frame())
                if frames[-1].opcode == CLOSE:
                    self.send(masked(CLOSE, frames[-1].payload[:2]))
        return frames

    def closed(self) -> tuple[int | None, str] | None:
        """Return code and reason of the close frame, which must be the last; None if the connection ended without."""
        frames = [frame for frame in self.rest() if frame.opcode not in (PING, PONG)]
        if not frames:
            return None
        assert [frame.opcode for frame in frames] == [CLOSE], frames
        payload = frames[0].payload
        return (struct.unpack("!H", payload[:2])[0], payload[2:].decode()) if payload else (None, "")

    def reset(self) -> None:
        """Break the connection with RST."""
        self._connection.reset()

    def _take(self, size: int) -> bytes:
        pieces, missing = [self._data], size - len(self._data)
        while missing > 0:
            piece = self._connection.sock.recv(262_144)
            if not piece:
                raise EOFError
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._data = data[size:]
        return data[:size]


@contextlib.contextmanager
def calling(served: Served, path: str = "/v3/ws?sample_rate=16000") -> Iterator[FrameCaller]:
    """Open a session below the pool's prefix. Its first message, ``Begin``, has not been read yet."""
    with RawConnection(served.url, timeout=10) as connection:
        connection.send(_UPGRADE.format(path=PREFIX + path, host=served.host, token=TOKEN).encode())
        caller = FrameCaller(connection)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield caller
