"""A pool with its reference, before a simulated AssemblyAI, served by a real uvicorn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from harness import secret, serve, token

from keypool_asgi import KeyPoolMiddleware, Team, UpstreamKey
from keypool_asgi.testing import Simulator

__all__ = ["TOKEN", "Gateway", "opened"]

TOKEN = token("reference")


@dataclass(frozen=True, slots=True)
class Gateway:
    """What is served, and what stands behind it.

    Attributes:
        url: the pool's own.
        origin: the server's.
    """

    url: str
    origin: str
    simulator: Simulator = field(repr=False)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": TOKEN}, timeout=30)


@contextlib.contextmanager
def opened(
    *, server: str = "uvicorn-httptools", root_path: str = "", teams: dict[str, Team] | None = None, **more: Any
) -> Iterator[Gateway]:
    """Open a pool of one key in a host app that answers 404, and its reference; ``teams`` are those beside ours."""
    sim = Simulator({secret("reference"): "acme/alpha"})
    key = UpstreamKey("a", secret("reference"), project="alpha", account="acme")
    with sim.running():
        # Its stand-in for the token service answers 501, as the service would not; at its root it knows no such path.
        origins = {**sim.origins, "token": sim.url}
        teams = {TOKEN: Team("readers"), **(teams or {})}
        pool = KeyPoolMiddleware(_host, keys=[key], teams=teams, origins=origins, reference=True, **more)
        with serve(pool, server, root_path=root_path) as served:
            yield Gateway(f"{served.url}/v1/assemblyai", served.url, sim)


async def _host(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"x-host", b"yes")]})
    await send({"type": "http.response.body", "body": b"host"})


async def _lifespan(receive: Any, send: Any) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})
