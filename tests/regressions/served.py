"""A pool behind a real server, over a simulator, and exact requests to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from faults.rig import CONCURRENCY, MOST, PREFIX, TOKEN, keys_of
from harness import RawConnection, Served, serve

from keypool_asgi import Charge, KeyPoolMiddleware, Team
from keypool_asgi.stores.quotas import MemoryQuotas
from keypool_asgi.stores.roster import KeySnapshot
from keypool_asgi.testing import Simulator

__all__ = ["UVICORNS", "Answer", "Pool", "pooled", "until"]

UVICORNS = ("uvicorn-h11", "uvicorn-httptools")


@dataclass(frozen=True)
class Answer:
    """One HTTP/1.1 response as it came over the wire; ``whole`` is whether it was ended as it should."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def all(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name.lower()]


@dataclass
class Pool:
    """The middleware around a small host, served."""

    app: KeyPoolMiddleware
    served: Served
    simulator: Simulator
    quotas: MemoryQuotas
    records: list[Any]
    host_saw: list[dict[str, Any]]

    @property
    def keys(self) -> tuple[KeySnapshot, ...]:
        return self.app.keys()

    def send(self, target: str | bytes, method: str = "GET", *fields: str, body: bytes = b"", **more: Any) -> Answer:
        """Send one request below the pool's prefix, and read its answer until the connection ends."""
        target = target.encode("latin-1") if isinstance(target, str) else target
        lines = [f"Authorization: {TOKEN}", "Connection: close", *fields]
        if body and not any(line.lower().startswith(("transfer-", "content-length")) for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        return self.exact(method.encode() + b" " + PREFIX.encode() + target, *lines, body=body, **more)

    def exact(
        self, start: bytes, *fields: str, body: bytes = b"", host: str | None = None, timeout: float = 5.0
    ) -> Answer:
        """Send exactly this, with ``Host`` and nothing else added."""
        head = [f"Host: {host or self.served.host}", *fields]
        data = start + b" HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in head).encode("latin-1") + b"\r\n"
        with RawConnection(self.served.url, timeout=timeout) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(data + body)
            return parsed(connection.read_to_end(), bodiless=start.startswith(b"HEAD "))

    def open_upload(self, *fields: str, announced: int | None = None) -> RawConnection:
        """Begin an upload, of which the caller then sends as much as it likes."""
        framing = "Transfer-Encoding: chunked" if announced is None else f"Content-Length: {announced}"
        lines = [f"Host: {self.served.host}", f"Authorization: {TOKEN}", framing, *fields]
        connection = RawConnection(self.served.url)
        head = f"POST {PREFIX}/v2/upload HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines)
        connection.send(head.encode() + b"\r\n")
        return connection

    def afresh(self) -> None:
        """Forget what was seen up to now."""
        self.simulator.forget()
        self.records.clear()
        self.host_saw.clear()

    def nothing_left(self) -> None:
        """Fail if an exchange, a lease, a permit, a task or an upstream request is left."""
        until(lambda: self.app.open_exchanges == 0)
        until(lambda: self.simulator.open_requests == 0)
        self.served.settle()
        assert not [key.id for key in self.keys if key.in_flight]
        everything = [Charge("team:team-a", CONCURRENCY, MOST)]
        assert self.served.call(self.quotas.reserve, "probe", everything) is None, "a permit is left"
        self.served.call(self.quotas.release, "probe")


@contextlib.contextmanager
def pooled(
    simulator: Simulator,
    server: str = "uvicorn-httptools",
    *keys: str,
    limits: Any = (CONCURRENCY,),
    serving: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Pool]:
    """Serve a pool over a simulator that is running.

    Args:
        simulator: where the pool's requests go.
        server: one of the harness's.
        keys: names, as for ``faults.rig.simulated``.
        limits: of the team.
        serving: settings of the server.
        settings: those of ``KeyPoolMiddleware``.
    """
    quotas, records, host_saw = MemoryQuotas(), [], []

    async def host(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        host_saw.append(scope)
        await send({"type": "http.response.start", "status": 299, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"host"})

    given: dict[str, Any] = {
        "keys": keys_of(*keys or ("k1",)),
        "teams": {TOKEN: Team("team-a", limits=limits)},
        "quotas": quotas,
        "origins": simulator.origins,
        "on_exchange": records.append,
        "drain_seconds": 0.2,
    }
    app = KeyPoolMiddleware(host, **(given | settings))
    with serve(app, server, **(serving or {})) as served:
        yield Pool(app, served, simulator, quotas, records, host_saw)


def until(condition: Callable[[], object], seconds: float = 3.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(0.002)


def parsed(data: bytes, *, bodiless: bool = False) -> Answer:
    """Read the last final response of what a connection gave until its end."""
    head, _, rest = data.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 1"):
        head, _, rest = rest.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1]) if lines[0] else 0
    headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
    fields = {name.lower(): value for name, value in headers}  # type: ignore[misc]
    if bodiless or status in (204, 304):
        return Answer(status, headers, rest, rest == b"")  # type: ignore[arg-type]
    if fields.get("transfer-encoding") == "chunked":
        body, whole = dechunked(rest)
    else:
        body, whole = rest, len(rest) == int(fields.get("content-length", "-1"))
    return Answer(status, headers, body, whole)  # type: ignore[arg-type]


def dechunked(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            return body, data == b"\r\n"
        body += data[:length]
        data = data[length + 2 :]
    return body, False
