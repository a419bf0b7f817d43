"""Opening sessions: with a client that keeps the rules, and frame by frame for what none would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from rawsocket import connect, head
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websocket

from keypool_asgi.testing.simulator.sockets.frames import frame

__all__ = ["PATHS", "Clock", "close_of", "dial", "masked", "raw_session", "read_json", "rest", "say", "upgrade"]

PATHS = {"streaming": "/v3/ws", "agents": "/v1/ws", "tts": "/v1/ws"}
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def dial(
    sim, service: str = "streaming", key: str | None = "", *, region: str = "us", **settings: Any
) -> Iterator[ClientConnection]:
    """Open a session; ``settings`` are parameters, or the client's if they begin with an underscore. No key: None."""
    query = {name: value for name, value in settings.items() if not name.startswith("_")}
    options = {name[1:]: value for name, value in settings.items() if name.startswith("_")}
    url = sim.origins_in(region)[service].replace("http", "ws", 1) + PATHS[service] + "?" + urlencode(query)
    headers = {} if key is None else {"Authorization": key or sim.key}
    options = {"compression": None, "additional_headers": headers, "max_size": None, "proxy": None} | options
    with websocket(url, **options) as connection:
        yield connection


def say(ws: ClientConnection, kind: str, **fields: Any) -> None:
    ws.send(json.dumps({"type": kind, **fields}))


def read_json(ws: ClientConnection) -> dict[str, Any]:
    return json.loads(ws.recv(timeout=5))


def rest(ws: ClientConnection) -> list[dict[str, Any]]:
    """All that still comes, up to the close."""
    messages = []
    try:
        while True:
            messages.append(read_json(ws))
    except ConnectionClosed:
        return messages


def close_of(ws: ClientConnection) -> tuple[int, str] | None:
    """The close frame that the simulator sent, once it has come; None if the connection ended without one."""
    try:
        while True:
            ws.recv(timeout=5)
    except ConnectionClosed as closed:
        return None if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


# Frame by frame


def upgrade(sim, *fields: str, line: str = "GET /streaming/v3/ws", without: str = "", **settings: Any) -> bytes:
    kept = [field for field in (*UPGRADE, KEY) if not without or not field.startswith(without)]
    return head(sim, line, *kept, *fields, **settings)


@contextmanager
def raw_session(sim, *fields: str, line: str = "GET /streaming/v3/ws") -> Iterator[socket.socket]:
    """A connection that was upgraded."""
    with connect(sim) as sock:
        sock.sendall(upgrade(sim, *fields, line=line))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # and no byte more
            piece = sock.recv(1)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield sock


def masked(opcode: int, payload: bytes = b"", **how: Any) -> bytes:
    return frame(opcode, payload, mask=b"\x11\x22\x33\x44", **how)
