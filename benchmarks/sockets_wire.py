"""As much of WebSocket frames as load and upstream need: whole messages in one frame, and only their beginning.

Callers mask with zeros, which is a mask like any other (RFC 6455, section 5.3), so that nothing is to be computed.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator

__all__ = ["BINARY", "CLOSE", "KEEP", "NUMBERED", "PING", "TEXT", "Reader", "accept_for", "frame", "pong"]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

KEEP = 80
"""Bytes of a message's beginning that are kept."""

NUMBERED = struct.Struct("!QQ")
"""What every audio message begins with: its number, and when it was sent, in nanoseconds."""

_LONG = 126
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Reader:
    """Frames out of the bytes of a connection."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def read(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield opcode, length and unmasked beginning of every frame that is complete now."""
        data = self._data + data if self._data else data
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 2
            if size >= _LONG:
                wide = 2 if size == _LONG else 8
                size, start = int.from_bytes(data[start : start + wide], "big"), start + wide
            masked = data[at + 1] & 0x80
            body = start + 4 if masked else start
            if body + size > end:
                break
            beginning = data[body : body + min(size, KEEP)]
            if masked:
                beginning = _unmasked(beginning, data[start:body])
            yield data[at] & 0x0F, size, beginning
            at = body + size
        self._data = data[at:]


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """Return a message in one frame."""
    size, flag = len(payload), 0x80 if masked else 0
    if size < _LONG:
        head = struct.pack("!BB", 0x80 | opcode, flag | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, flag | _LONG, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, flag | 127, size)
    return head + b"\0\0\0\0" + payload if masked else head + payload


def pong(payload: bytes, *, masked: bool) -> bytes:
    """Return the answer to a ping."""
    return frame(PONG, payload, masked=masked)


def accept_for(key: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` of a key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


def _unmasked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")
