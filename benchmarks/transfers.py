"""Large bodies, up and down, between a peer that may be slow or stall and a server under test."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .answers import PREFIX, TOKEN
from .load import answer_head, content_length
from .upstream import SLOW_BYTES_PER_SECOND, STALL_SECONDS

__all__ = ["Transfer", "play"]

_MIB = 1024**2
_PIECE = bytes(256 * 1024)
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One large body, and how the side that takes it behaves."""

    upload: bool
    size: int
    peer: str = "fast"
    chunked: bool = False

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{'upload' if self.upload else 'download'}, {self.peer} peer{', chunked' if self.chunked else ''}"


def play(port: int, transfer: Transfer) -> None:
    """Do one transfer, and see that every byte has arrived."""
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as sock:
        if transfer.upload:
            _upload(sock, transfer)
        else:
            _download(sock, transfer)


def _upload(sock: socket.socket, transfer: Transfer) -> None:
    framing = "Transfer-Encoding: chunked" if transfer.chunked else f"Content-Length: {transfer.size}"
    sock.sendall(_head("POST", f"/v2/upload?peer={transfer.peer}", "application/octet-stream", framing))
    left = transfer.size
    while left:
        piece = memoryview(_PIECE)[:left]
        left -= len(piece)
        sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if transfer.chunked else piece)
    if transfer.chunked:
        sock.sendall(b"0\r\n\r\n")
    head, body = answer_head(sock)
    while len(body) < content_length(head):
        body += sock.recv(65_536)
    _check(head, transfer.size, json.loads(body)["received"])


def _download(sock: socket.socket, transfer: Transfer) -> None:
    if transfer.peer != "fast":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    body = b'{"text":"Good day."}'
    sock.sendall(_head("POST", f"/v1/speech?bytes={transfer.size}", "application/json", f"Content-Length: {len(body)}"))
    sock.sendall(body)
    head, rest = answer_head(sock)
    _check(head, transfer.size, content_length(head))
    buffer, taken, began = bytearray(_MIB), len(rest), time.perf_counter()
    stalls = [transfer.size // 2] if transfer.peer == "stalled" else []
    while taken < transfer.size:
        count = sock.recv_into(buffer)
        if not count:
            raise ConnectionResetError(f"the download broke off after {taken} bytes")
        taken += count
        if stalls and taken > stalls[0]:
            stalls.clear()
            time.sleep(STALL_SECONDS)
        if transfer.peer == "slow":
            time.sleep(max(0.0, taken / SLOW_BYTES_PER_SECOND - (time.perf_counter() - began)))


def _head(method: str, target: str, content_type: str, framing: str) -> bytes:
    lines: Sequence[str] = (
        f"{method} {PREFIX}{target} HTTP/1.1",
        "Host: bench",
        f"Authorization: {TOKEN}",
        f"Content-Type: {content_type}",
        framing,
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def _check(head: bytes, sent: int, arrived: int) -> None:
    if not head.startswith(b"HTTP/1.1 200") or sent != arrived:
        raise ValueError(f"{sent} bytes were sent and {arrived} arrived: {head[:60]!r}")
