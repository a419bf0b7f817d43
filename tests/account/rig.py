"""A stack with an account, over a simulator whose clock a test moves on: hours pass in no time between two requests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from harness import Served, secret, serve, token
from harness.hosts import PREFIX

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.asgi import ASGIApp
from keypool_asgi.core.charging import Tariff
from keypool_asgi.core.prices import NO_PRICES, Prices
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.core.usage import Selection
from keypool_asgi.lifespan import Lifespan
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.metering import METERING
from keypool_asgi.stages.accounting import Accounting
from keypool_asgi.stages.asking import Asker
from keypool_asgi.stages.auth import Auth
from keypool_asgi.stages.bookkeeping import Bookkeeper
from keypool_asgi.stages.forwarder import Forwarder
from keypool_asgi.stages.gate import Gate
from keypool_asgi.stages.intercept import Intercept
from keypool_asgi.stages.key_selector import KeySelector
from keypool_asgi.stages.lists import Lists
from keypool_asgi.stages.ownership import Ownership
from keypool_asgi.stages.quota import Quota
from keypool_asgi.stages.reconciling import Reconciler, SettledFirst
from keypool_asgi.stages.relay import Relay
from keypool_asgi.stages.settling import JobDesk
from keypool_asgi.stores.ledger import MemoryLedger
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.quotas import MemoryQuotas
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.stores.teams import team_directory
from keypool_asgi.testing import Simulator
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.sockets import NativeSockets

__all__ = ["Clock", "Stack", "client_of", "keys_of", "served", "simulated", "teams_of"]

QUICK = SessionLimits(closing_seconds=1.0)


class Clock:
    """Unix time that goes on by itself, and jumps when it is told to."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.ahead = start - time.time()

    def __call__(self) -> float:
        return time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += seconds


def simulated(clock: Clock, *names: str, **settings: Any) -> Simulator:
    """Each key on a project of its own; the projects of one account are those of one letter."""
    keys = {secret(name): f"account-{name[0]}/project-{name}" for name in names}
    return Simulator(keys, clock=clock, **settings)


def keys_of(*names: str) -> list[UpstreamKey]:
    return [
        UpstreamKey(name, secret=secret(name), project=f"project-{name}", account=f"account-{name[0]}")
        for name in names
    ]


def teams_of(*names: str, **settings: Any) -> dict[str, Team]:
    return {token(name): Team(name, **settings) for name in names}


class Stack:
    """What ``KeyPool`` puts together, with the account in its place.

    Attributes:
        app: to be served.
    """

    app: ASGIApp

    def __init__(
        self,
        simulator: Simulator,
        clock: Clock,
        *,
        keys: list[UpstreamKey],
        teams: Mapping[str, Team],
        ledger: Any = None,
        resources: Any = None,
        quotas: Any = None,
        prices: Prices = NO_PRICES,
        on_usage: Any = None,
        shared: bool = False,
        write_seconds: float = 0.05,
        sessions: SessionLimits = QUICK,
        **reconciling: Any,
    ) -> None:
        self.clock = clock
        self.ledger = ledger or MemoryLedger()
        self.resources = resources or MemoryResources(clock=clock)
        self.quotas = quotas or MemoryQuotas(clock=clock)
        self.provider = provider = ASSEMBLYAI.with_origins(simulator.origins)
        self.tariff = tariff = Tariff(METERING, prices=prices)
        self.pool = Pool(keys, check=provider.check_key, wait_seconds=1)
        self.client = NativeClient(timeouts=Timeouts())
        self.sockets = NativeSockets(timeouts=Timeouts(), limits=sessions)
        self.books = Bookkeeper(self.ledger, on_usage=on_usage, write_seconds=write_seconds, clock=clock)
        self.asker = Asker(pool=self.pool, client=self.client, provider=provider)
        self.desk = JobDesk(
            provider=provider, tariff=tariff, asker=self.asker, books=self.books, quotas=self.quotas, clock=clock
        )
        self.reconciler = Reconciler(
            desk=self.desk,
            resources=self.resources,
            provider=provider,
            clock=clock,
            **({"requests_per_second": 500.0} | reconciling),
        )
        self.relay = Relay(_nothing, sockets=self.sockets, provider=provider, limits=sessions)
        app: ASGIApp = Forwarder(self.relay, client=self.client, provider=provider)
        app = KeySelector(app, pool=self.pool, provider=provider)
        listed = SettledFirst(self.resources, self.reconciler)
        app = Lists(app, resources=listed, provider=provider, asker=self.asker, shared=shared)
        app = Ownership(
            app,
            resources=self.resources,
            rules=provider.resources,
            asker=self.asker if shared else None,
            clock=clock,
        )
        app = Quota(app, quotas=self.quotas, tariff=tariff, shared=shared, clock=clock)
        self.accounting = Accounting(
            app,
            books=self.books,
            desk=self.desk,
            tariff=tariff,
            resources=self.resources,
            shared=shared,
            on_use=self.reconciler.start,
            clock=clock,
        )
        directory = team_directory(teams, pepper=None, ttl_seconds=60, negative_ttl_seconds=60)
        auth = Auth(self.accounting, teams=directory, resources=self.resources, rules=provider.resources)
        self.gate = Gate(auth)
        intercept = Intercept(self.gate, table=provider.table)
        lifespan = Lifespan(None, startup=self._open, stopping=self._drain, shutdown=self.aclose)

        async def app_(scope: Any, receive: Any, send: Any) -> None:
            await (lifespan if scope["type"] == "lifespan" else intercept)(scope, receive, send)

        self.app = app_

    async def _open(self) -> None:
        self.reconciler.start()

    async def _drain(self) -> None:
        await self.gate.drain(2)

    async def aclose(self) -> None:
        """In the order in which one thing needs the other."""
        await self.reconciler.aclose()
        await self.relay.aclose()
        await self.accounting.aclose()
        await self.books.aclose()
        await self.pool.aclose()
        await self.sockets.aclose()
        await self.client.aclose()

    async def sums(self, *by: str, **conditions: Any) -> dict[tuple[str, ...], dict[str, int]]:
        """What is in the account, once what waits is written."""
        await self.books.flush()
        return {one.group: dict(one.used) for one in await self.ledger.sums(Selection(**conditions), by)}

    async def records(self, **conditions: Any) -> list[Any]:
        """Every record, the oldest first."""
        await self.books.flush()
        return list(await self.ledger.page(Selection(**conditions), 100_000))[::-1]


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing stands behind the relay")


@contextlib.contextmanager
def served(stack: Stack, server: str = "uvicorn-httptools", **settings: Any) -> Iterator[Served]:
    with serve(stack.app, server, **settings) as running:
        yield running


def client_of(running: Served, team: str, **fields: str) -> httpx.Client:
    headers = {"authorization": token(team), **fields}
    return httpx.Client(base_url=running.url + PREFIX, headers=headers, timeout=20)
