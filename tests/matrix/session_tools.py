"""Callers of sessions over real sockets: with a client that keeps the rules, and frame by frame for what none sends."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import struct
from collections.abc import Iterator
from typing import Any

from harness import RawConnection
from harness.hosts import PREFIX
from matrix.callers import TOKEN
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

__all__ = [
    "AUDIO",
    "STREAMING",
    "TERMINATE",
    "RawSession",
    "close_of",
    "dial",
    "frame",
    "kinds_until_close",
    "read_json",
    "refusal_in_band",
    "refusal_status",
]

STREAMING = "/v3/ws?sample_rate=16000"
TERMINATE = '{"type": "Terminate"}'
AUDIO = bytes(3200)
"""100 ms at 16 kHz."""

PATIENCE = 10.0

# The client's own log tells of every frame, and the leak guard looks at every record.
_quiet = logging.getLogger("tests.sessions")
_quiet.setLevel(logging.WARNING)


@contextlib.contextmanager
def dial(
    base: str, path: str = STREAMING, *, team: str | None = TOKEN, agent: str | None = "tests", **settings: Any
) -> Iterator[ClientConnection]:
    """Open a session.

    Args:
        base: URL of the pool (``ws://...``).
        path: below it.
        team: token for the ``Authorization`` field, None for no such field.
        agent: ``User-Agent``; what names an official SDK, or nothing at all, is refused in band.
        settings: the client's own.
    """
    fields = {} if team is None else {"Authorization": team}
    options = {"compression": None, "max_size": None, "proxy": None, "open_timeout": PATIENCE, "close_timeout": 2}
    options |= {"additional_headers": fields, "user_agent_header": agent, "logger": _quiet}
    with connect(base + path, **(options | settings)) as connection:
        yield connection


def read_json(ws: ClientConnection) -> dict[str, Any]:
    return json.loads(ws.recv(timeout=PATIENCE))


def kinds_until_close(ws: ClientConnection) -> tuple[list[str], tuple[int, str]]:
    """Types of all messages that still come, and code and reason of the close frame."""
    kinds: list[str] = []
    try:
        while True:
            kinds.append(read_json(ws)["type"])
    except ConnectionClosed:
        return kinds, close_of(ws)


def close_of(ws: ClientConnection) -> tuple[int, str]:
    """Code and reason of the close frame, once it has come; what still comes before it is passed over."""
    try:
        while True:
            ws.recv(timeout=PATIENCE)
    except ConnectionClosed as closed:
        return (1006, "") if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


def refusal_status(base: str, path: str = STREAMING, **settings: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, fields and body of the answer that refuses an upgrade."""
    try:
        with dial(base, path, **settings):
            raise AssertionError("the upgrade was not refused")
    except InvalidStatus as refused:
        answer = refused.response
        return (
            answer.status_code,
            {k.lower(): v for k, v in answer.headers.raw_items()},
            json.loads(answer.body or b"{}"),
        )


def refusal_in_band(base: str, path: str = STREAMING, **settings: Any) -> tuple[dict[str, Any], tuple[int, str]]:
    """The only message, and the close, of a session that is refused in band."""
    with dial(base, path, **settings) as ws:
        return read_json(ws), close_of(ws)


# Frame by frame


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame (RFC 6455, section 5.2), masked with zeros."""
    size = len(payload)
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


class RawSession(RawConnection):
    """A session of which a caller reads and sends as it likes, or vanishes."""

    def __init__(self, url: str, path: str = PREFIX + STREAMING, *fields: str, timeout: float = PATIENCE) -> None:
        super().__init__(url, timeout=timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: pool.example",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            "User-Agent: tests",
            *(fields or (f"Authorization: {TOKEN}",)),
        ]
        self.send("\r\n".join([*lines, "", ""]).encode())
        head = self.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def vanish(self, how: str) -> None:
        """End the connection without a close frame: with an RST or a FIN."""
        self.reset() if how == "reset" else self.sock.close()
