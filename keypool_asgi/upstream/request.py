"""Request heads as bytes, and how their bodies are framed (RFC 9112, sections 3 and 6). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from keypool_asgi.core.messages import Headers, RequestHead

__all__ = ["LAST_CHUNK", "BodyMeter", "EncodedRequest", "LengthMismatchError", "encode_chunk", "encode_request"]

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_FRAMING_AND_CONNECTION = _FRAMING | {b"connection"}

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked body without trailers (RFC 9112, section 7.1)."""


@dataclass(slots=True)
class EncodedRequest:
    """A request head as it goes on the wire.

    Attributes:
        data: request line and header section, with the empty line.
        length: bytes of the body, 0 for none; None if it is chunked.
        persistent: False if the request itself asks upstream to close the connection.
    """

    data: bytes = field(repr=False)  # it holds the key (I2)
    length: int | None
    persistent: bool


class LengthMismatchError(Exception):
    """A request body is longer or shorter than its Content-Length."""


class BodyMeter:
    """Keeps a request body to its declared length, and the request incomplete until it is said to be complete (I7).

    Args:
        length: bytes of the body; None if it is chunked.
    """

    __slots__ = ("_held", "_missing")

    def __init__(self, length: int | None) -> None:
        self._missing = length
        self._held = b""

    def pass_on(self, data: bytes) -> bytes:
        """Return what of a piece may be sent now: all of it, or nothing if it is the one that fills the length.

        Raises:
            LengthMismatchError: the body is longer than declared.
        """
        if self._missing is None:
            return data
        self._missing -= len(data)
        if self._missing < 0:
            raise LengthMismatchError("the request body is longer than its Content-Length")
        if self._missing > 0:
            return data
        self._held += data
        return b""

    def rest(self) -> bytes:
        """Return what was held back, now that the body is complete.

        Raises:
            LengthMismatchError: the body is shorter than declared.
        """
        if self._missing:
            raise LengthMismatchError("the request body is shorter than its Content-Length")
        held, self._held = self._held, b""
        return held


def encode_request(head: RequestHead) -> EncodedRequest:
    """Encode a request head.

    Raises:
        ValueError: the head would not be one well-formed HTTP/1.1 request. This is the last guard against request
            smuggling, so nothing is repaired. Neither the message nor a local variable of a frame in the traceback
            repeats a header value (I2).
    """
    outcome = _encode(head)
    if isinstance(outcome, str):
        raise ValueError(outcome)  # noqa: TRY004 - it says what is wrong with the head
    return outcome


def _encode(head: RequestHead) -> EncodedRequest | str:
    headers = head.headers
    lines = [b"%b %b HTTP/1.1" % (head.method, head.target), *map(b": ".join, headers), b"\r\n"]
    data = b"\r\n".join(lines)
    if len(data) - len(data.translate(None, b"\r\n\0")) != 2 * len(lines):  # more than the ends of lines
        return "a request line or header field contains CR, LF or NUL"
    if head.method == b"CONNECT" or not head.method.isalpha() or not head.target or head.target.find(b" ") >= 0:
        return "the request method or target is not valid here"
    if _FRAMING_AND_CONNECTION.isdisjoint([name.lower() for name, _ in headers]):
        return EncodedRequest(data, 0, persistent=True)
    return _frame(data, headers)


def _frame(data: bytes, headers: Headers) -> EncodedRequest | str:
    """Find how the body is framed (RFC 9112, section 6) and whether the connection may go on."""
    framing: list[tuple[bytes, bytes]] = []
    persistent = True
    for name, value in headers:
        lower = name.lower()
        if lower in _FRAMING:
            framing.append((lower, value))
        elif lower == b"connection" and b"close" in value.lower():
            persistent = False
    if not framing:
        return EncodedRequest(data, 0, persistent)
    (name, value), *others = framing
    if others:  # RFC 9112, section 6.2: never both; and never a choice between two
        return "a request must have at most one of Content-Length and Transfer-Encoding"
    if name == b"content-length":
        if not value.isdigit():
            return "the Content-Length of a request must be a decimal number"
        return EncodedRequest(data, int(value), persistent)
    if value.lower() != b"chunked":
        return "the only transfer coding of a request is chunked"
    return EncodedRequest(data, None, persistent)


def encode_chunk(data: bytes) -> bytes:
    """Frame a non-empty piece as one chunk (RFC 9112, section 7.1).

    One joined write: ``writelines`` does not pause the protocol in Python 3.12.0 to 3.12.8 (CVE-2024-12254). And a
    join, because formatting copies a piece more than once, which takes a hundred times as long where it is large.
    """
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n"))
