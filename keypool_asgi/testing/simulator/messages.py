"""Response heads and bodies as bytes. h11 is strict about what it sends; a simulator has to be able to misbehave."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

from .faults import Fault, Zeros
from .values import Headers, Reply

__all__ = ["Plan", "head_bytes", "plan", "split_at"]

_GZIPPED = (b"application/json", b"text/")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a reply goes over the wire.

    Attributes:
        head: status line and fields, with the empty line.
        pieces: of the body.
        framing: how the body ends; ``none`` when there is no body.
        size: of the body, when it is known.
        trailers: after a chunked body.
    """

    head: bytes
    pieces: Iterable[bytes]
    framing: Literal["none", "length", "chunked", "close"]
    size: int | None
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def frame(self, piece: bytes) -> bytes:
        """Return a piece of the body as it goes over the wire."""
        if self.framing == "none":
            return b""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.framing == "chunked" and piece else piece

    @property
    def end(self) -> bytes:
        """What comes after the last piece."""
        return b"0\r\n" + _fields(self.trailers) + b"\r\n" if self.framing == "chunked" else b""


def head_bytes(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a response."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode() + _fields(headers) + b"\r\n"


def plan(
    reply: Reply, fault: Fault, *, method: str, now: float, close: bool, gzipped: bool = False, chunked: bool = False
) -> Plan:
    """Decide how a reply goes over the wire.

    Args:
        reply: what to send.
        fault: what is to be done differently.
        method: of the request; ``HEAD`` gets no body.
        now: Unix time in seconds.
        close: announce that the connection will be closed.
        gzipped: the client takes gzip, and the simulator was told to use it.
        chunked: the simulator was told to use chunks wherever it can.
    """
    if gzipped:
        reply = _gzipped(reply)
    body = reply.body
    size = len(body) if isinstance(body, bytes) else body.size if isinstance(body, Zeros) else None
    framing = _framing(fault, known=size is not None, chunked=chunked)
    headers = [(b"Date", formatdate(now, usegmt=True).encode()), *reply.headers, *fault.headers]
    if reply.status in (204, 304) or reply.status < 200:
        return Plan(head_bytes(reply.status, [*headers, *_connection(close)]), (), "none", 0)
    if framing == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif framing == "length":
        headers.append((b"Content-Length", str(size).encode()))
    head = head_bytes(reply.status, [*headers, *_connection(close or framing == "close")])
    if method == "HEAD":
        return Plan(head, (), "none", 0)
    pieces = ((body,) if body else ()) if isinstance(body, bytes) else body
    return Plan(head, pieces, framing, size, fault.trailers)


def split_at(pieces: Iterable[bytes], *places: int | None) -> Iterator[tuple[int, bytes]]:
    """Cut pieces so that none lies across one of the places; yields ``(offset of its end, piece)``."""
    marks = sorted(place for place in places if place is not None)
    offset = 0
    for whole in pieces:
        rest = whole
        for mark in marks:
            if offset < mark < offset + len(rest):
                cut, rest = rest[: mark - offset], rest[mark - offset :]
                offset = mark
                yield offset, cut
        offset += len(rest)
        yield offset, rest


def _framing(fault: Fault, *, known: bool, chunked: bool) -> Literal["length", "chunked", "close"]:
    if fault.framing == "close":
        return "close"
    if fault.trailers or fault.framing == "chunked" or not known:
        return "chunked"
    return "chunked" if chunked and fault.framing == "auto" else "length"


def _gzipped(reply: Reply) -> Reply:
    kind = next((value for name, value in reply.headers if name.lower() == b"content-type"), b"")
    if not isinstance(reply.body, bytes) or not reply.body or not kind.startswith(_GZIPPED):
        return reply
    headers: Headers = [*reply.headers, (b"Content-Encoding", b"gzip"), (b"Vary", b"Accept-Encoding")]
    return replace(reply, headers=headers, body=gzip.compress(reply.body, mtime=0))


def _connection(close: bool) -> Headers:
    return [(b"Connection", b"close")] if close else []


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)
