"""``memory``: large uploads and downloads through the whole stack, with fast, slow and stalled peers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import nginx, proc
from .answers import PREFIX, TOKEN
from .fleet import Child, Fleet
from .load import answer_head, content_length
from .stats import amount, table
from .upstream import SLOW_BYTES_PER_SECOND, STALL_SECONDS

__all__ = ["run"]

_MIB = 1024**2
_PIECE = bytes(256 * 1024)
_TIMEOUT_SECONDS = 60.0
_GOAL_MIB, _LATER_GOAL_MIB = 32.0, 4.0


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


TRANSFERS = (
    Transfer(True, 2_000_000_000),
    Transfer(True, 500_000_000, chunked=True),
    Transfer(True, 75_000_000, "slow"),
    Transfer(True, 200_000_000, "stalled"),
    Transfer(False, 500_000_000),
    Transfer(False, 75_000_000, "slow"),
    Transfer(False, 200_000_000, "stalled"),
)


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    transfers = TRANSFERS
    if quick:
        transfers = tuple(Transfer(t.upload, min(t.size // 5, 100_000_000), t.peer, t.chunked) for t in TRANSFERS)
    rows: list[list[str]] = []
    with Fleet() as fleet:
        load_cpu, server_cpu = proc.processors()
        upstream = fleet.python("upstream", on=load_cpu)
        url = f"http://127.0.0.1:{upstream.port}"
        children = {name: fleet.python(name, "--upstream", url, on=server_cpu) for name in ("keypool", "keypool-httpx")}
        if nginx.installed():
            children["nginx"] = fleet.nginx(nginx.proxy(upstream.port), on=server_cpu)
        idle = {name: _idle(child) for name, child in children.items()}
        for transfer in transfers:
            rows += [_row(name, child, transfer, idle[name]) for name, child in children.items()]
    columns = ["transfer", "proxy", "MB", "MB/s", "CPU s/GB", "idle MiB", "peak MiB", "growth MiB", "<= 32", "<= 4"]
    yield table("memory: peak RSS above idle", columns, rows)


def _row(name: str, child: Child, transfer: Transfer, idle: int) -> list[str]:
    cpu, began = proc.cpu_seconds(child.pid), time.perf_counter()
    with proc.peak_of(child.pid) as most:
        _play(child, transfer)
    seconds, cpu = time.perf_counter() - began, proc.cpu_seconds(child.pid) - cpu
    peak = most[0]
    growth = (peak - idle) / _MIB
    return [
        transfer.name,
        name,
        amount(transfer.size / 1e6),
        amount(transfer.size / 1e6 / seconds),
        amount(cpu / (transfer.size / 1e9)),
        f"{idle / _MIB:.1f}",
        f"{peak / _MIB:.1f}",
        f"{growth:.1f}",
        *["yes" if growth <= goal else "NO" for goal in (_GOAL_MIB, _LATER_GOAL_MIB)],
    ]


def _idle(child: Child) -> int:
    """Return the memory of a server that has loaded what is loaded once, and come to rest. It is taken only once.

    What one transfer leaves behind therefore counts in those after it.
    """
    for upload in (True, False):
        _play(child, Transfer(upload, 100_000))
    time.sleep(0.5)
    return proc.resident_bytes(child.pid)


def _play(child: Child, transfer: Transfer) -> None:
    with socket.create_connection(("127.0.0.1", child.port), timeout=_TIMEOUT_SECONDS) as sock:
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
