"""What the matrices share: a pool over a simulator, callers of it, and the proxy that may stand before it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
from harness import RawConnection, Served, secret, token

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.testing import Simulator

__all__ = ["TOKEN", "Raw", "Stripping", "client_of", "head_of", "is_ours", "raw", "settings_of", "simulated"]

TOKEN = token("team-a")


def simulated(**settings: Any) -> Simulator:
    return Simulator({secret("k1"): "account-1/project-1"}, **settings)


def settings_of(simulator: Simulator, **settings: Any) -> dict[str, Any]:
    """Settings of ``KeyPoolMiddleware`` with one key and one team."""
    return {
        "keys": [UpstreamKey("k1", secret=secret("k1"), project="project-1", account="account-1")],
        "teams": {TOKEN: Team("team-a")},
        "origins": simulator.origins,
        "reconcile_seconds": None,  # its errands would stand among the requests that a test has made
        **settings,
    }


class Stripping(httpx.BaseTransport):
    """A reverse proxy that shows an app below ``prefix``, and takes that away from what it passes on."""

    def __init__(self, prefix: str, limits: httpx.Limits) -> None:
        self.prefix = prefix.encode()
        self.transport = httpx.HTTPTransport(limits=limits)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path
        assert target.startswith(self.prefix + b"/"), f"{target!r} leads past the app"
        request.url = request.url.copy_with(raw_path=target.removeprefix(self.prefix))
        return self.transport.handle_request(request)

    def close(self) -> None:
        self.transport.close()


def client_of(url: str, *, strips: str = "", team: str | None = TOKEN) -> httpx.Client:
    """A client at a base URL, past a proxy that strips a prefix if need be.

    Each request has a connection of its own. On one that is kept, the second of the two writes of uvicorn waits
    40 ms (Nagle's algorithm, delayed acknowledgements): asyncio turns that off only for sockets made with IPPROTO_TCP.
    """
    headers = {} if team is None else {"authorization": team}
    limits = httpx.Limits(max_keepalive_connections=0)
    transport = Stripping(strips, limits) if strips else httpx.HTTPTransport(limits=limits)
    return httpx.Client(base_url=url, headers=headers, transport=transport, trust_env=False, timeout=10)


class Raw(RawConnection):
    """A connection on which whole answers are read, one after the other."""

    def ask(self, method: str, path: str, *fields: str, body: bytes = b"", version: str = "1.1") -> None:
        """Send a request; ``fields`` are lines such as ``Expect: 100-continue``."""
        lines = [f"{method} {path} HTTP/{version}", "Host: pool.example", *fields]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def answer(self, *, of: str = "GET") -> tuple[int, list[tuple[str, str]], bytes]:
        """Read one answer to its end, as its framing says; EOFError when it is broken off."""
        head, _, self.received = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        status, fields = head_of(head)
        if status == 100:
            return self.answer(of=of)
        named = dict(fields)
        if of == "HEAD" or status in (204, 304):
            return status, fields, b""
        if named.get("transfer-encoding") == "chunked":
            return status, fields, self._chunked()
        if "content-length" in named:
            return status, fields, self.exactly(int(named["content-length"]))
        body, self.received = self.read_to_end(), b""
        return status, fields, body

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        pieces, missing = [self.received[:size]], size - len(self.received[:size])
        self.received = self.received[size:]
        while missing:
            chunk = self.sock.recv(min(missing, 65536))
            if not chunk:
                raise EOFError(f"{missing} of {size} bytes are missing")
            pieces.append(chunk)
            missing -= len(chunk)
        return b"".join(pieces)

    def _chunked(self) -> bytes:
        body = b""
        while True:
            line, _, self.received = self.read_until(b"\r\n").partition(b"\r\n")
            size = int(line, 16)
            body += self.exactly(size)
            assert self.exactly(2) == b"\r\n"
            if not size:
                return body


def head_of(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    """Status and fields, names in lower case, of a response head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return int(first.split()[1]), fields


@contextlib.contextmanager
def raw(served: Served, timeout: float = 5.0) -> Iterator[Raw]:
    with Raw(served.url, timeout=timeout) as connection:
        yield connection


def is_ours(response: httpx.Response) -> bool:
    """Whether a refusal was made by the pool, not by the host."""
    return "x-request-id" in response.headers and {"error", "code"} <= response.json().keys()
