"""A raw socket for what no HTTP client would send."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

__all__ = ["connect", "head", "read_all", "read_head", "talk"]


def connect(sim) -> socket.socket:
    parts = urlsplit(sim.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


def head(sim, line: str, *fields: str, key: str | None = None, host: str | None = None) -> bytes:
    """A request head; with the simulator's key and host unless others are given."""
    own = [f"Host: {urlsplit(sim.url).netloc if host is None else host}", f"Authorization: {key or sim.key}"]
    return "\r\n".join([f"{line} HTTP/1.1", *own, *fields, "", ""]).encode("latin-1")


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65_536)
        if not piece:
            break
        data += piece
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65_536):
        data += piece
    return data


def talk(sim, request: bytes) -> bytes:
    """Send a request, then a FIN, and return all that comes back."""
    with connect(sim) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)
