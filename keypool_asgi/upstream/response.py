"""One response out of the bytes of a connection: limits, framing and strictness (RFC 9112). Sans-I/O.

A response that two readers could understand differently is refused, because where it ends decides what the next
caller on the same connection gets. So the rules here hold for both parsers:

1. A head ends with an empty line, every line with CRLF, and nothing in it is a control character (9112, 2.2).
2. No obsolete line folding (9112, 5.2).
3. At most one of Content-Length and Transfer-Encoding, once; the only transfer coding is chunked (9112, 6.1 to 6.3).
4. No switch of protocols (101), and a bounded number of other 1xx responses (9110, 15.2).
5. A connection whose response is followed by more bytes is not used again (9112, 9.2).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from keypool_asgi.core.messages import Headers, ResponseHead
from keypool_asgi.errors import ConnectionBroken, ProtocolViolation

from .parsers import Parser, ParserFactory
from .settings import MAX_HEAD_BYTES, MAX_INTERIM_RESPONSES

__all__ = ["Body", "Framing", "ResponseReader", "frame_response"]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])[ \r]")
_PREFIX = b"HTTP/1."
_END = b"\r\n\r\n"
# Other than visible ASCII, SP, HTAB and obs-text (RFC 9110, section 5.5). CR and LF may end lines, as a pair.
_CONTROLS = bytes(code for code in [*range(0x20), 0x7F] if code != ord("\t"))
_FRAMING_AND_CONNECTION = frozenset({b"content-length", b"transfer-encoding", b"connection"})


class Body(Enum):
    """How the end of a response body is found (RFC 9112, section 6.3)."""

    LENGTH = "by its length"
    CHUNKED = "by the last chunk"
    UNTIL_CLOSE = "by the end of the connection"


class Framing(NamedTuple):
    """Where a response ends.

    Attributes:
        body: how its end is found.
        length: bytes of the body if it is found by length; 0 where there is none.
        persistent: whether the connection may be used again after it.
    """

    body: Body
    length: int
    persistent: bool


def frame_response(method: bytes, minor: bytes, status: int, headers: Headers) -> Framing:
    """Find where a final response ends (RFC 9112, sections 6.3 and 9.3).

    Raises:
        ProtocolViolation: its fields contradict each other.
    """
    if status < 200:
        raise _violation("no final response")
    length, chunked, persistent = _framing_fields(headers)
    # HTTP/1.0 connections are never used again: their persistence is a guess (RFC 9112, appendix C.2.2).
    persistent = persistent and minor == b"1"
    if chunked and (length is not None or minor != b"1"):
        raise _violation("Transfer-Encoding beside Content-Length, or in HTTP/1.0")
    if method == b"HEAD" or status == 304:
        return Framing(Body.LENGTH, 0, persistent)
    if status == 204:  # a body that is announced all the same may still come: nobody may take it for an answer
        return Framing(Body.LENGTH, 0, persistent and not chunked and not length)
    if chunked:
        return Framing(Body.CHUNKED, 0, persistent)
    if length is None:
        return Framing(Body.UNTIL_CLOSE, 0, False)
    return Framing(Body.LENGTH, length, persistent)


def _framing_fields(headers: Headers) -> tuple[int | None, bool, bool]:
    length: int | None = None
    chunked = False
    persistent = True
    for name, value in headers:
        lower = name.lower()
        if lower not in _FRAMING_AND_CONNECTION:
            continue
        if lower == b"content-length":
            # Repeated ones are refused even if equal, as RFC 9112 (6.3, item 5) allows: llhttp does it too.
            if length is not None or not value.isdigit() or len(value) > 18:
                raise _violation("Content-Length is repeated or no number")
            length = int(value)
        elif lower == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise _violation("unknown transfer coding")
            chunked = True
        elif value != b"keep-alive" and persistent:
            persistent = b"close" not in [option.strip() for option in value.lower().split(b",")]
    return length, chunked, persistent


def _violation(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"upstream's response is malformed: {what}", sent=True)


class ResponseReader:
    """Reads one final response: give it bytes, get body bytes; ``head`` and ``ended`` tell the rest.

    Attributes:
        head: the final response's head, once it has come.
        started: whether any byte has come.
        ended: whether the response is complete.
        persistent: whether the connection may be used again, once it is complete.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_interim",
        "_left",
        "_max_head",
        "_method",
        "_new_parser",
        "_parser",
        "_searched",
        "ended",
        "head",
        "persistent",
        "started",
    )

    def __init__(self, method: bytes, new_parser: ParserFactory, max_head: int = MAX_HEAD_BYTES) -> None:
        self.head: ResponseHead | None = None
        self.started = False
        self.ended = False
        self.persistent = False
        self._method = method
        self._new_parser = new_parser
        self._max_head = max_head
        self._parser: Parser | None = None
        self._buffer = bytearray()
        self._searched = 0
        self._interim = 0
        self._body = Body.LENGTH
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the connection and return the body bytes among them.

        Raises:
            ProtocolViolation: they are not a valid response; nothing more must be fed.
        """
        self.started = True
        if self.head is None:
            data = self._feed_head(data)
            if not data:
                return data
        if self.ended:
            self.persistent = False
            return b""
        if self._parser is not None:
            return self._feed_chunks(self._parser, data)
        return self._feed_length(data) if self._body is Body.LENGTH else data

    def feed_eof(self, *, clean: bool) -> None:
        """Say that no more bytes will come; ``clean`` unless the connection was reset or its TLS cut short.

        Raises:
            ConnectionBroken: the response is not complete (I7).
        """
        self.persistent = False
        if self.ended:
            return
        if self.head is not None and self._body is Body.UNTIL_CLOSE and clean:
            self.ended = True
            return
        where = "before the end of its response" if self.started else "without an answer"
        raise ConnectionBroken(f"upstream closed the connection {where}", sent=True)

    def _feed_length(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left > 0:
            return data
        self.ended = True
        if self._left == 0:
            return data
        self.persistent = False
        return data[: self._left]

    def _feed_chunks(self, parser: Parser, data: bytes) -> bytes:
        content, self.ended, surplus = parser.chunks(data)
        if surplus:
            self.persistent = False
        # Chunk extensions and trailers carry nothing for us; a stream of them must not be endless either (I4).
        self._left = 0 if content else self._left + len(data)
        if self._left > self._max_head:
            raise _violation("chunk extensions or trailers too large")
        if self.ended:
            self._parser = None
        return content

    def _feed_head(self, data: bytes) -> bytes:
        """Return what follows the head of the final response, nothing as long as that is incomplete."""
        if self._buffer:
            self._buffer += data
            data = bytes(self._buffer) if self._buffer.find(_END, self._searched) >= 0 else b""
        while self.head is None:
            end = data.find(_END) + 4
            if end < 4:
                self._keep(data)
                return b""
            self._take_head(data[:end])
            data = data[end:]
            self._buffer.clear()
            self._searched = 0
        return data

    def _keep(self, data: bytes) -> None:
        """Keep an incomplete head, unless it can never become a valid one."""
        buffer = self._buffer
        buffer += data
        if len(buffer) > self._max_head:
            raise _violation("head too large")
        if not buffer.startswith(_PREFIX[: len(buffer)]) or buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise _violation("not an HTTP/1.1 response head")
        self._searched = max(0, len(buffer) - 3)

    def _take_head(self, data: bytes) -> None:
        minor, status = self._check_head(data)
        if status == 101:
            raise _violation("a switch of protocols that nobody asked for")
        parser = self._new_parser()
        reason, headers = parser.head(data)
        if status < 200:  # RFC 9110, section 15.2: interim responses are passed over
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise _violation("too many interim responses")
            return
        self._body, self._left, self.persistent = frame_response(self._method, minor, status, headers)
        self.ended = self._body is Body.LENGTH and self._left == 0
        self._parser = parser if self._body is Body.CHUNKED else None
        self.head = ResponseHead(status, reason, headers)

    def _check_head(self, data: bytes) -> tuple[bytes, int]:
        if len(data) > self._max_head:
            raise _violation("head too large")
        match = _STATUS_LINE.match(data)
        if match is None:
            raise _violation("not an HTTP/1.1 status line")
        if len(data) - len(data.translate(None, _CONTROLS)) != 2 * data.count(b"\r\n"):
            raise _violation("control character in the head")
        if data.find(b"\r\n ") >= 0 or data.find(b"\r\n\t") >= 0:
            raise _violation("folded header line")
        return match[1], int(match[2])
