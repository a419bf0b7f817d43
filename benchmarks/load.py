"""Load: many connections (wrk, or ours without it), one request at a time, and bursts."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .stats import percentile

__all__ = ["Load", "answer_head", "burst", "content_length", "latencies", "request", "saturate"]

_TIMEOUT_SECONDS = 20.0

_WRK_REPORT = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("REPORT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load has measured. Times are in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int = 0

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def saturate(port: int, target: str, token: str, *, connections: int, seconds: float, folder: Path) -> Load:
    """Keep ``connections`` busy for a time."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return _closed_loop(port, request(target, token), connections, seconds)
    script = folder / "report.lua"
    script.write_text(_WRK_REPORT, encoding="ascii")
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(script)]
    command += ["-H", f"Authorization: {token}", f"http://127.0.0.1:{port}{target}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    line = next(line for line in done.stdout.splitlines() if line.startswith("REPORT "))
    count, micros, p50, p99, errors = (int(word) for word in line.split()[1:])
    return Load(count, micros / 1e6, p50 / 1e3, p99 / 1e3, errors)


def request(target: str, token: str) -> bytes:
    """Return a small GET as bytes."""
    return f"GET {target} HTTP/1.1\r\nHost: bench\r\nAuthorization: {token}\r\n\r\n".encode("ascii")


def latencies(port: int, data: bytes, count: int) -> list[float]:
    """Send one request at a time; return each one's seconds."""
    found: list[float] = []
    with _connect(port) as sock:
        length = _first_answer(sock, data)
        for _ in range(count):
            began, answer = time.perf_counter(), b""
            sock.sendall(data)
            while not _is_whole(answer, length):
                answer += _received(sock)
            found.append(time.perf_counter() - began)
    return found


def burst(port: int, data: bytes, *, at_once: int, per_second: float, seconds: float) -> list[float]:
    """Send ``at_once`` requests at the same moment, again and again; return each one's seconds."""
    found: list[float] = []
    with ExitStack() as stack:
        crowd = _Crowd(port, data, at_once, stack)
        interval = at_once / per_second
        for tick in range(round(seconds / interval)):
            began = time.perf_counter()
            for descriptor in crowd.socks:
                crowd.send(descriptor)
            found += [crowd.next_answer()[1] for _ in range(at_once)]
            if tick:
                time.sleep(max(0.0, began + interval - time.perf_counter()))
    return found


def _closed_loop(port: int, data: bytes, connections: int, seconds: float) -> Load:
    """Do in Python what wrk does: enough for a server that is slower than we are."""
    found: list[float] = []
    with ExitStack() as stack:
        crowd = _Crowd(port, data, connections, stack)
        began = time.perf_counter()
        for descriptor in crowd.socks:
            crowd.send(descriptor)
        while time.perf_counter() < began + seconds:
            descriptor, took = crowd.next_answer()
            found.append(took)
            crowd.send(descriptor)
        took = time.perf_counter() - began
    return Load(len(found), took, percentile(found, 50) * 1e3, percentile(found, 99) * 1e3)


class _Crowd:
    """Connections with at most one request under way on each."""

    def __init__(self, port: int, data: bytes, count: int, stack: ExitStack) -> None:
        self._data = data
        self._poll = stack.enter_context(select.epoll())
        self._answers: dict[int, bytes] = {}
        self._began: dict[int, float] = {}
        self._ready: list[tuple[int, int]] = []
        self.socks: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = stack.enter_context(_connect(port))
            self._length = _first_answer(sock, data)
            self.socks[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)

    def send(self, descriptor: int) -> None:
        """Send one request."""
        self._answers[descriptor] = b""
        self._began[descriptor] = time.perf_counter()
        self.socks[descriptor].sendall(self._data)

    def next_answer(self) -> tuple[int, float]:
        """Wait for the next complete answer; return its connection and its seconds."""
        while True:
            if not self._ready:
                self._ready = self._poll.poll(_TIMEOUT_SECONDS)
                if not self._ready:
                    raise TimeoutError(f"no answer within {_TIMEOUT_SECONDS:g} s")
            descriptor, _ = self._ready.pop(0)
            self._answers[descriptor] += _received(self.socks[descriptor])
            if _is_whole(self._answers[descriptor], self._length):
                return descriptor, time.perf_counter() - self._began[descriptor]


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise ConnectionResetError("the server under test has closed a connection")
    return data


def _is_whole(answer: bytes, length: int) -> bool:
    """Whether the head and a body of so many bytes have come. Heads vary: they tell how much of a limit is left."""
    end = answer.find(b"\r\n\r\n")
    return end >= 0 and len(answer) >= end + 4 + length


def _first_answer(sock: socket.socket, data: bytes) -> int:
    """Send a request, check that it is answered with 200, and return how many bytes its body has."""
    sock.sendall(data)
    head, rest = answer_head(sock)
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"the server under test answers {head[:60]!r}")
    length = content_length(head)
    while len(rest) < length:
        rest += _received(sock)
    return length


def answer_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """Read the head of an answer; return it with its empty line, and what came of the body with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(sock)
    end = data.index(b"\r\n\r\n") + 4
    return data[:end], data[end:]


def content_length(head: bytes) -> int:
    """Return the Content-Length of an answer."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise ValueError("the server under test gives no Content-Length")
