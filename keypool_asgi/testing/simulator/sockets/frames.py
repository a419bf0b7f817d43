"""The server's side of the WebSocket protocol (RFC 6455): bytes in, events out; messages in, bytes out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wsproto import frame_protocol
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension

__all__ = ["Broken", "Closed", "Frames", "Pinged", "Ponged", "Received", "TooBig", "close_frame", "frame"]


@dataclass(frozen=True, slots=True)
class Received:
    """A complete message; ``fragments`` are the sizes of its frames, in characters or bytes."""

    data: str | bytes
    fragments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TooBig:
    """A message grew over the limit; nothing more is told of it."""

    size: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """A ping came."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ponged:
    """A pong came."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A close frame came; ``code`` is None for an empty one."""

    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The client broke the protocol; ``code`` is what to close with."""

    code: int
    why: str


Happened = Received | TooBig | Pinged | Ponged | Closed | Broken


class Frames:
    """One connection after its upgrade.

    Args:
        extensions: that were agreed on.
        most: the size of the biggest message that is taken, in characters or bytes; None for any.
    """

    def __init__(self, extensions: list[Extension], most: int | None) -> None:
        self._connection = Connection(ConnectionType.SERVER, extensions)
        self._most = most
        self._pieces: list[str | bytes] = []
        self._sizes: list[int] = [0]
        self._size = 0
        self._too_big = False

    def feed(self, data: bytes) -> Iterator[Happened]:
        """Take bytes that came; yields what they tell. Nothing can be fed after a ``Closed`` or ``Broken``."""
        self._connection.receive_data(data)
        for event in self._connection.events():
            happened = self._happened(event)
            if happened is not None:
                yield happened

    def message(self, data: str | bytes, fragments: int | tuple[int, ...] = 1) -> Iterator[bytes]:
        """Yield the frames of a message."""
        pieces = list(_split(data, fragments))
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces)
            event: TextMessage | BytesMessage = (
                TextMessage(piece, message_finished=last)
                if isinstance(piece, str)
                else BytesMessage(piece, message_finished=last)
            )
            yield bytes(self._connection.send(event))

    def _happened(self, event: Event) -> Happened | None:
        match event:
            case TextMessage() | BytesMessage():
                return self._piece(event)
            case Ping():
                return Pinged(bytes(event.payload))
            case Pong():
                return Ponged()
            case CloseConnection() if self._connection.state is ConnectionState.OPEN:
                return Broken(int(event.code), event.reason or "")
            case CloseConnection():
                empty = event.code == frame_protocol.CloseReason.NO_STATUS_RCVD
                return Closed(None if empty else int(event.code), event.reason or "")
        raise AssertionError(event)

    def _piece(self, event: TextMessage | BytesMessage) -> Received | TooBig | None:
        self._sizes[-1] += len(event.data)
        self._size += len(event.data)
        size, told = self._size, self._too_big
        self._too_big = told or (self._most is not None and size > self._most)
        if self._too_big:
            self._pieces.clear()
        else:
            self._pieces.append(event.data if isinstance(event.data, str) else bytes(event.data))
        if event.message_finished:
            complete = None if self._too_big else Received(self._joined(event), tuple(self._sizes))
            self._pieces, self._sizes, self._size = [], [0], 0
        else:
            complete = None
            if event.frame_finished:
                self._sizes.append(0)
        return TooBig(size) if self._too_big and not told else complete

    def _joined(self, event: TextMessage | BytesMessage) -> str | bytes:
        if isinstance(event, TextMessage):
            return "".join(piece for piece in self._pieces if isinstance(piece, str))
        return b"".join(piece for piece in self._pieces if isinstance(piece, bytes))


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = b"") -> bytes:
    """Return one frame (RFC 6455, section 5.2), valid or not."""
    first = opcode | rsv | (0x80 if fin else 0)
    flag = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, flag | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    if mask:
        payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return head + mask + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame with any code; a reason is cut at 123 bytes, between two characters."""
    if code is None:
        return frame(8)
    return frame(8, struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode())


def _split(data: str | bytes, fragments: int | tuple[int, ...]) -> Iterator[str | bytes]:
    if isinstance(fragments, int):
        least, more = divmod(len(data), fragments)
        fragments = tuple(least + (n < more) for n in range(fragments))
    start = 0
    for size in fragments:
        yield data[start : start + size]
        start += size
