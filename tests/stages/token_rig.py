"""A served stack with sessions and temporary tokens, over a simulator, with a clock and a directory to play with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from harness import Served, need, secret, serve, token

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.exchange import SCOPE_KEY, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.minting import MINT_RULES
from keypool_asgi.stages.auth import Auth
from keypool_asgi.stages.forwarder import Forwarder
from keypool_asgi.stages.intercept import Intercept
from keypool_asgi.stages.key_selector import KeySelector
from keypool_asgi.stages.minting import Minting
from keypool_asgi.stages.ownership import Ownership
from keypool_asgi.stages.relay import Relay
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.testing import Simulator
from keypool_asgi.upstream import NativeClient
from keypool_asgi.upstream.sockets import NativeSockets

__all__ = ["LIVEKIT", "PREFIX", "TEAM", "Directory", "TokenRig", "close_of", "simulated_projects", "stack"]

PREFIX = "/v1/assemblyai"
TEAM = token("team-a")
LIVEKIT = "AssemblyAI/1.0 (integration=Livekit)"
PROJECTS = ("p1", "p2", "p3")


def simulated_projects() -> Simulator:
    return Simulator({secret(name): f"acme/{name}" for name in PROJECTS})


@dataclass
class Directory:
    """Teams by token, which may change at any time."""

    teams: dict[str, Team]

    async def find(self, text: str) -> Team | None:
        return self.teams.get(text)


@dataclass
class Spy:
    """Stands between two stages and keeps the exchanges that pass."""

    exchanges: list[Exchange] = field(default_factory=list)

    def between(self, app: Any) -> Any:
        async def passing(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "lifespan":
                self.exchanges.append(scope[SCOPE_KEY])
            await app(scope, receive, send)

        return passing


@dataclass
class TokenRig:
    """A served stack. ``ahead`` is how many seconds its clock is ahead of the simulator's."""

    simulator: Simulator
    directory: Directory
    resources: MemoryResources
    spy: Spy = field(default_factory=Spy)
    ahead: float = 0.0
    served: Served = field(init=False)

    def clock(self) -> float:
        return time.time() + self.ahead

    @property
    def last(self) -> Exchange:
        """The last exchange that auth let pass."""
        return self.spy.exchanges[-1]

    def get(self, target: str, presented: str = TEAM) -> httpx.Response:
        return httpx.get(f"{self.served.url}{PREFIX}{target}", headers={"authorization": presented}, timeout=20)

    def mint(self, target: str = "/v3/token?expires_in_seconds=60") -> str:
        answer = self.get(target)
        assert answer.status_code == 200, answer.text
        return answer.json()["token"]

    @contextmanager
    def dial(self, target: str = "/v3/ws?sample_rate=16000", **options: Any) -> Iterator[Any]:
        """Open a session, as a caller that is no SDK."""
        need("websockets")
        from websockets.sync.client import connect

        given: dict[str, Any] = {"user_agent_header": LIVEKIT, "proxy": None, "compression": None, "open_timeout": 20}
        with connect(f"{self.served.ws_url}{PREFIX}{target}", **(given | options)) as ws:
            yield ws

    def opens(self, target: str = "/v3/ws?sample_rate=16000", **options: Any) -> dict[str, Any]:
        """Open a session and end it in order. Returns its first message."""
        with self.dial(target, **options) as ws:
            first = json.loads(ws.recv(timeout=10))
            if first["type"] == "Begin":
                ws.send('{"type":"Terminate"}')
            for _ in ws:
                pass
        return first

    def refused(self, target: str = "/v3/ws?sample_rate=16000", **options: Any) -> tuple[int, str]:
        """Fail to open a session. Returns the status and the sentence."""
        need("websockets")
        from websockets.exceptions import InvalidStatus

        try:
            with self.dial(target, **options) as ws:
                raise AssertionError(f"it opened: {ws.recv(timeout=10)}")
        except InvalidStatus as refusal:
            return refusal.response.status_code, json.loads(refusal.response.body)["error"]


def close_of(ws: Any) -> tuple[int, str]:
    """How the peer ended a session, after whatever messages."""
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        for _ in ws:
            pass
    return ws.close_code, ws.close_reason


@contextmanager
def stack(
    simulator: Simulator,
    *,
    issuer: Any = None,
    allowed_origins: Any = None,
    resources: MemoryResources | None = None,
    server: str = "uvicorn-httptools",
    **minting: Any,
) -> Iterator[TokenRig]:
    """Serve intercept, auth, minting, ownership, key selector, forwarder and relay."""
    expiring = Team("team-b", expires_at=datetime.fromtimestamp(time.time() + 1000, UTC))
    directory = Directory({TEAM: Team("team-a"), token("team-b"): expiring})
    rig = TokenRig(simulator, directory, resources or MemoryResources())
    provider = ASSEMBLYAI.with_origins(simulator.origins)
    pool = Pool([UpstreamKey(name, secret(name), project=name, account="acme") for name in PROJECTS])
    client, sockets = NativeClient(), NativeSockets()
    relay = Relay(_nothing, sockets=sockets, provider=provider)
    app: Any = Forwarder(relay, client=client, provider=provider)
    app = KeySelector(app, pool=pool, provider=provider)
    app = Ownership(app, resources=rig.resources, rules=provider.resources, minting=MINT_RULES, clock=rig.clock)
    app = Minting(app, rules=MINT_RULES, issuer=issuer, clock=rig.clock, **minting)
    app = Auth(
        rig.spy.between(app),
        teams=directory,
        resources=rig.resources,
        rules=provider.resources,
        issuer=issuer,
        allowed_origins=allowed_origins,
        clock=rig.clock,
    )
    app = Intercept(app, table=provider.table, host=_nothing)
    # uvicorn logs the URL of each upgrade, while our frames are on the stack: it would count as a leak of ours.
    quiet = {"log_level": "warning"} if server.startswith("uvicorn") else {}
    with serve(app, server, lifespan="off", **quiet) as rig.served:
        yield rig
        for closing in (relay.aclose, sockets.aclose, pool.aclose, client.aclose):
            rig.served.call(closing)
    assert simulator.violations == []


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands behind the last stage, and for the host app."""
