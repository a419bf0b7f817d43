"""Messages out of the bytes of a connection (RFC 6455, sections 5 and 8.1). Sans-I/O.

wsproto reads the frames and checks each: reserved bits and opcodes, lengths, masks, control frames. It takes 8 us for
a short one; so a whole message in one frame that has come in one piece, as nearly all do, is taken here, in 1.5 us, and
wsproto is given what is anything else. How frames make a message is here:

1. A message is joined as its pieces come, up to a limit that is counted as they come (invariant I4).
2. Text is checked as it comes, too: a message is refused at its first wrong byte.
3. Control frames may stand between the fragments of a message; fragments of two messages never mix (section 5.4).
"""

from __future__ import annotations

import codecs
from typing import Final, NamedTuple

from wsproto.frame_protocol import Frame, FrameDecoder, Opcode, ParseFailed

from keypool_asgi.core.sessions import Close

from .closing import INVALID_PAYLOAD, PROTOCOL_ERROR, TOO_BIG, ViolationError, decode_close

__all__ = ["Event", "MessageReader", "Ping"]


class Ping(NamedTuple):
    """A ping, to be answered with its payload."""

    payload: bytes


Event = str | bytes | Ping | Close
"""What upstream says: a text or binary message, a ping, the close. Pongs are passed over."""

_TEXT = Opcode.TEXT
_BINARY = Opcode.BINARY
_CONTINUATION = Opcode.CONTINUATION
_WHOLE_BINARY: Final = 0x82
_WHOLE: Final = frozenset({0x81, _WHOLE_BINARY})
"""First bytes of a message in one frame: the final bit, no reserved one, and text or binary."""

_NOT_TEXT = "a text message is not UTF-8"


class MessageReader:
    """Reads what a server sends: give it bytes with ``feed``, and take events with ``next`` until there are none.

    Args:
        max_bytes: the longest message.
    """

    __slots__ = ("_at", "_check", "_data", "_decoder", "_max", "_opcode", "_partial")

    def __init__(self, max_bytes: int) -> None:
        self._decoder: FrameDecoder | None = None  # only while it has something: it takes more memory than all the rest
        self._max = max_bytes
        self._opcode: Opcode | None = None  # of the message that is incomplete
        self._partial = bytearray()
        self._check: codecs.IncrementalDecoder | None = None
        self._data = b""  # from ``_at`` on it is still to be read, by us or by wsproto
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection."""
        self._data = self._data[self._at :] + data if self._data else data
        self._at = 0

    def next(self) -> Event | None:
        """Return the next event that is complete.

        Raises:
            ViolationError: the protocol is broken, or a message over the limit. Nothing can be read after it.
        """
        if self._data:
            message = self._take_whole()
            if message is not None:
                return message
            self._decoder = self._decoder or FrameDecoder(client=True)
            self._decoder.receive_bytes(self._data[self._at :])
            self._data = b""
        return None if self._decoder is None else self._take_parsed(self._decoder)

    def _take_whole(self) -> str | bytes | None:
        """Take a message that is next, in one short frame, and all there; None for anything else, right or wrong."""
        data, at = self._data, self._at
        if self._opcode is not None or self._decoder is not None or len(data) < at + 4:
            return None
        first, size, start = data[at], data[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif size > 126:  # long, or masked
            return None
        end = start + size
        if end > len(data) or size > self._max or first not in _WHOLE:
            return None
        if start == at + 4 and size < 126:  # its length is not written as shortly as can be
            return None
        if end == len(data):
            self._data = b""
        self._at = end
        payload = data[start:end]
        return payload if first == _WHOLE_BINARY else _decode(payload)

    def _take_parsed(self, decoder: FrameDecoder) -> Event | None:
        """Take an event out of what wsproto was given, which is forgotten when it has nothing left."""
        try:
            while (frame := decoder.process_buffer()) is not None:
                event = self._take(frame)
                if event is not None:
                    return event
        except ParseFailed as exc:
            raise ViolationError(PROTOCOL_ERROR, _sentence(exc)) from None
        if decoder.header is None and not decoder.buffer:
            self._decoder = None
        return None

    def _take(self, frame: Frame) -> Event | None:
        opcode, _, frame_ended, final = frame
        payload: bytes = frame.payload  # type: ignore[assignment] # it is decoded here
        if opcode is _TEXT or opcode is _BINARY:
            if self._opcode is not None:
                raise ViolationError(PROTOCOL_ERROR, "a message began within another one")
            if frame_ended and final and len(payload) <= self._max:
                return payload if opcode is _BINARY else _decode(payload)
            self._opcode = opcode
            self._check = codecs.getincrementaldecoder("utf-8")() if opcode is _TEXT else None
            return self._add(payload, ended=frame_ended and final)
        if opcode is _CONTINUATION:
            if self._opcode is None:
                raise ViolationError(PROTOCOL_ERROR, "a message began with a continuation")
            return self._add(payload, ended=frame_ended and final)
        if opcode is Opcode.PING:
            return Ping(payload)
        return decode_close(payload) if opcode is Opcode.CLOSE else None

    def _add(self, payload: bytes, *, ended: bool) -> str | bytes | None:
        """Add a piece to the message that is incomplete, and return it if this was the last one."""
        partial = self._partial
        if len(partial) + len(payload) > self._max:
            raise ViolationError(TOO_BIG, f"a message is over {self._max} bytes")
        partial += payload
        if self._check is not None:
            _check(self._check, payload, ended=ended)
        if not ended:
            return None
        text = self._opcode is _TEXT
        self._opcode, self._check, self._partial = None, None, bytearray()
        return partial.decode() if text else bytes(partial)


def _decode(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ViolationError(INVALID_PAYLOAD, _NOT_TEXT) from None


def _check(decoder: codecs.IncrementalDecoder, payload: bytes, *, ended: bool) -> None:
    try:
        decoder.decode(payload, ended)
    except UnicodeDecodeError:
        raise ViolationError(INVALID_PAYLOAD, _NOT_TEXT) from None


def _sentence(failed: ParseFailed) -> str:
    return f"a frame is invalid: {failed}"
