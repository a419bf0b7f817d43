"""The opening handshake as bytes (RFC 6455, section 4). Pure."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import replace
from typing import Final, NamedTuple

from keypool_asgi.core.messages import Headers, RequestHead
from keypool_asgi.errors import ProtocolViolation, UpgradeRefused
from keypool_asgi.upstream.parsers import load_parser
from keypool_asgi.upstream.request import EncodedRequest, encode_request
from keypool_asgi.upstream.response import ResponseReader
from keypool_asgi.upstream.settings import MAX_HEAD_BYTES, MAX_INTERIM_RESPONSES

__all__ = ["AnswerReader", "Upgrade", "encode_upgrade"]

MAX_REFUSAL_BYTES: Final = 64 * 1024
"""Bytes that are kept of the body of an answer other than 101."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_OURS: Final = re.compile(rb"upgrade|connection|sec-websocket-.*", re.IGNORECASE | re.DOTALL)
_PREFIX: Final = b"HTTP/1."
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")
# A head that is as strict as those of other responses: no bare CR or LF, no folded line, no control character.
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 101(?: [\t -~\x80-\xff]*)?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)


class Upgrade(NamedTuple):
    """An upgrade request as it goes on the wire, and the ``Sec-WebSocket-Accept`` that answers it."""

    request: EncodedRequest
    accept: bytes


def encode_upgrade(head: RequestHead) -> Upgrade:
    """Encode an upgrade request; no extension and no subprotocol is offered.

    Raises:
        ValueError: the head is no well-formed GET without a body, or has fields of the handshake itself. Neither the
            message nor a local variable of a frame in the traceback repeats a header value (I2).
    """
    if head.method != b"GET" or any(_OURS.fullmatch(name) for name, _ in head.headers):
        raise ValueError("an upgrade is a GET, and the fields of the handshake are not the caller's")
    nonce = base64.b64encode(os.urandom(16))
    request = encode_request(_with_fields(head, nonce))
    if request.length != 0:
        raise ValueError("an upgrade has no body")
    digest = hashlib.sha1(nonce + _GUID, usedforsecurity=False).digest()
    return Upgrade(request, base64.b64encode(digest))


def _with_fields(head: RequestHead, nonce: bytes) -> RequestHead:
    fields = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", nonce),
    ]
    return replace(head, headers=[*head.headers, *fields])


class AnswerReader:
    """Reads the answer to an upgrade request: give it bytes until it returns some, or is ``refused``.

    Args:
        accept: the ``Sec-WebSocket-Accept`` of an answer that accepts.
    """

    __slots__ = ("_accept", "_buffer", "_interim", "_pieces", "_response", "_size")

    def __init__(self, accept: bytes) -> None:
        self._accept = accept
        self._buffer = bytearray()
        self._interim = 0
        self._response: ResponseReader | None = None  # once the answer is another one than 101
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def refused(self) -> bool:
        """Whether the answer is an ordinary one whose head has come."""
        return self._response is not None and self._response.head is not None

    @property
    def ended(self) -> bool:
        """Whether as much of an ordinary answer has come as is wanted."""
        return self._response is not None and (self._response.ended or self._size >= MAX_REFUSAL_BYTES)

    def refusal(self) -> UpgradeRefused:
        """Return an ordinary answer, as far as it has come.

        Raises:
            ProtocolViolation: its head is not complete.
        """
        if self._response is None or self._response.head is None:
            raise _violation("incomplete head")
        head = self._response.head
        return UpgradeRefused(head.status, head.headers, b"".join(self._pieces)[:MAX_REFUSAL_BYTES])

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; returns what follows the head of an answer that accepts, None until it is complete.

        Raises:
            ProtocolViolation: the answer is malformed, or accepts what was not asked for.
        """
        if self._response is None:
            self._buffer += data
            data = self._next_head()
            if not data:
                return None
            if data.startswith(b"101", 9):
                return self._accepted(data)
            self._response = ResponseReader(b"GET", load_parser(None))
        content = self._response.feed(data)
        if content and self._size < MAX_REFUSAL_BYTES:
            self._pieces.append(content)
            self._size += len(content)
        return None

    def _next_head(self) -> bytes:
        """Return everything from the head of the final answer on, nothing as long as it is incomplete."""
        buffer = self._buffer
        while True:
            end = buffer.find(_END) + 4
            if (len(buffer) if end < 4 else end) > MAX_HEAD_BYTES:
                raise _violation("head too large")
            if not buffer.startswith(_PREFIX[: len(buffer)]):
                raise _violation("not an HTTP/1.1 response head")
            if end < 4:
                return b""
            status = _STATUS.match(buffer)
            if status is None:
                raise _violation("not an HTTP/1.1 status line")
            if status[1] == b"101" or not status[1].startswith(b"1"):
                return bytes(buffer)
            self._interim += 1  # RFC 9110, section 15.2: interim responses are passed over
            if self._interim > MAX_INTERIM_RESPONSES:
                raise _violation("too many interim responses")
            del buffer[:end]

    def _accepted(self, data: bytes) -> bytes:
        end = data.index(_END) + 4
        match = _HEAD.fullmatch(data, 0, end)
        if match is None:
            raise _violation("malformed head")
        wrong = _wrong_with(_fields(match[1]), self._accept)
        if wrong is not None:
            raise _violation(wrong)
        return data[end:]


def _fields(lines: bytes) -> Headers:
    pairs = (line.split(b":", 1) for line in lines.split(b"\r\n")[:-1])
    return [(name.lower(), value.strip(b" \t")) for name, value in pairs]


def _wrong_with(fields: Headers, accept: bytes) -> str | None:
    """Check what RFC 6455 says in section 4.1 about the server's response."""
    if _members(fields, b"upgrade") != [b"websocket"]:
        return "Upgrade is not websocket"
    if b"upgrade" not in _members(fields, b"connection"):
        return "Connection is not Upgrade"
    if [value for name, value in fields if name == b"sec-websocket-accept"] != [accept]:
        return "Sec-WebSocket-Accept is not the answer to the key"
    if _members(fields, b"sec-websocket-extensions"):
        return "an extension that nobody asked for"
    if any(name == b"sec-websocket-protocol" for name, _ in fields):
        return "a subprotocol that nobody asked for"
    return None


def _members(fields: Headers, name: bytes) -> list[bytes]:
    values = (value for each, value in fields if each == name)
    return [member for value in values for part in value.split(b",") if (member := part.strip(b" \t").lower())]


def _violation(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"upstream's answer to the upgrade is malformed: {what}", sent=True)
