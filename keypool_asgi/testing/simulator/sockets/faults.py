"""Faults of sessions, as frozen values like those of requests."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from .acts import Act, Close, Drop, Fail, Hold, Ping, Raw, Say, What
from .frames import frame

__all__ = ["INVALID_FRAMES", "Invalid", "SocketFault"]

Invalid = Literal[
    "utf-8",
    "utf-8 cut",
    "reserved bit",
    "reserved opcode",
    "masked",
    "long ping",
    "fragmented ping",
    "continuation first",
    "message within message",
    "length not minimal",
    "length of 2**63",
    "close of one byte",
    "close code 1005",
    "close code 1006",
    "close code 999",
    "close code 5000",
    "close reason not utf-8",
    "garbage",
]

INVALID_FRAMES: dict[Invalid, bytes] = {
    "utf-8": frame(1, b"caf\xe9 \xff\xfe"),
    "utf-8 cut": frame(1, "é".encode()[:1]),
    "reserved bit": frame(1, b"{}", rsv=0x40),
    "reserved opcode": frame(3, b"{}"),
    "masked": frame(1, b"{}", mask=b"\x01\x02\x03\x04"),
    "long ping": frame(9, b"p" * 126),
    "fragmented ping": frame(9, b"p", fin=False),
    "continuation first": frame(0, b"{}"),
    "message within message": frame(1, b"{", fin=False) + frame(1, b"}"),
    "length not minimal": b"\x81\x7e\x00\x02{}",
    "length of 2**63": b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
    "close of one byte": frame(8, b"\x03"),
    "close code 1005": frame(8, b"\x03\xed"),
    "close code 1006": frame(8, b"\x03\xee"),
    "close code 999": frame(8, b"\x03\xe7"),
    "close code 5000": frame(8, b"\x13\x88"),
    "close reason not utf-8": frame(8, b"\x03\xe8\xff\xfe"),
    "garbage": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 60\r\n\r\n" + b"<html>" * 10,
}
"""What breaks RFC 6455 when a server sends it (sections 5.1 to 5.5, 7.4, 8.1)."""


@dataclass(frozen=True, slots=True)
class SocketFault:
    """What goes wrong with one session; the constructors name the usual ones, ``but`` and ``and_then`` combine them.

    Faults of the upgrade itself, such as a refusal with an HTTP status, no answer, or garbage, are those of any other
    request: see ``Fault``.

    Attributes:
        does: what is done, one thing after the other.
        after: once so many messages of the client have come and were answered.
        before_begin: before the ``Begin`` (which then comes last, if the session is still open).
        begin: seconds by which ``Begin`` is late; None: it never comes.
        headers: fields of the 101 response, in place of those of the same name.
    """

    does: tuple[Act, ...] = ()
    after: int = 0
    before_begin: bool = False
    begin: float | None = 0.0
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def refused(cls, code: int = 1008, text: str = "Unauthorized Connection: Invalid API key") -> SocketFault:
        """Refuse in band, as bad keys, empty accounts and too many sessions are: an error instead of ``Begin``."""
        return cls((Fail(code, text),), before_begin=True)

    @classmethod
    def errored(
        cls, code: int = 3005, text: str = "Session Cancelled: An error occurred", *, after: int = 0
    ) -> SocketFault:
        """Tell of an error after ``Begin`` and ``after`` messages, and close."""
        return cls((Fail(code, text),), after)

    @classmethod
    def closed(
        cls, code: int | None = 1011, reason: str = "", *, after: int = 0, before_begin: bool = False
    ) -> SocketFault:
        """Close without a message; any code and reason goes, a code of None is an empty close frame."""
        return cls((Close(code, reason),), after, before_begin)

    @classmethod
    def dropped(
        cls, how: Literal["reset", "fin"] = "reset", *, after: int = 0, before_begin: bool = False
    ) -> SocketFault:
        """End the connection without a close frame."""
        return cls((Drop(how),), after, before_begin)

    @classmethod
    def stalled(
        cls, seconds: float | None = None, *, what: What = "both", after: int = 0, before_begin: bool = False
    ) -> SocketFault:
        """Stop reading, sending, or both, for ``seconds`` or until ``Simulator.release()``."""
        return cls((Hold(what, seconds),), after, before_begin)

    @classmethod
    def late(cls, seconds: float) -> SocketFault:
        """Have ``Begin`` come so many seconds late; messages are taken meanwhile."""
        return cls(begin=seconds)

    @classmethod
    def silent(cls) -> SocketFault:
        """Have ``Begin`` never come."""
        return cls(begin=None)

    @classmethod
    def says(cls, *messages: str | bytes | dict[str, Any], after: int = 0) -> SocketFault:
        """Send messages of your own, such as ``{"type": "Warning", ...}``; a dict goes as JSON."""
        texts = (json.dumps(each) if isinstance(each, dict) else each for each in messages)
        return cls(tuple(Say(text) for text in texts), after)

    @classmethod
    def empty(cls, *, after: int = 0) -> SocketFault:
        """Send an empty text message and an empty binary one."""
        return cls.says("", b"", after=after)

    @classmethod
    def giant(cls, size: int = 16_777_216, *, binary: bool = False, after: int = 0) -> SocketFault:
        """Send one message of ``size`` bytes."""
        return cls.says(bytes(size) if binary else "x" * size, after=after)

    @classmethod
    def fragmented(
        cls, message: str | bytes | dict[str, Any], fragments: int, *, pings: int = 0, after: int = 0
    ) -> SocketFault:
        """Send a message in so many frames, with so many pings between two of them."""
        data = json.dumps(message) if isinstance(message, dict) else message
        return cls((Say(data, fragments=fragments, pings=pings),), after)

    @classmethod
    def pinged(cls, count: int = 1, payload: bytes = b"", *, after: int = 0) -> SocketFault:
        """Send pings, one or a flood of them."""
        return cls((Ping(count, payload),), after)

    @classmethod
    def invalid(cls, kind: Invalid, *, after: int = 0) -> SocketFault:
        """Break the protocol; the kinds are the names in ``INVALID_FRAMES``."""
        return cls((Raw(INVALID_FRAMES[kind]),), after)

    @classmethod
    def fields(cls, *headers: tuple[bytes, bytes]) -> SocketFault:
        """Put fields into the 101 response, such as a wrong ``Sec-WebSocket-Accept`` or a ``Set-Cookie``."""
        return cls(headers=headers)

    def and_then(self, other: SocketFault) -> SocketFault:
        """Return this fault, with what the other does done right after it."""
        return dataclasses.replace(self, does=(*self.does, *other.does))

    def but(self, **changes: object) -> SocketFault:
        """Return this fault with other values for some of its attributes."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
