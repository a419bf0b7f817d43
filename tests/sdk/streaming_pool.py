"""A pool over TLS for live sessions, as every SDK wants it, and the look for what a session has left behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import Served, secret

from keypool_asgi import ExchangeRecord
from keypool_asgi.stores.roster import KeySnapshot
from keypool_asgi.testing import Simulator

from .gateway import opened

__all__ = ["OWN_TOKENS", "Live", "health_of", "live"]

OWN_TOKENS = {"streaming_tokens": "keypool", "streaming_token_secret": secret("seal") * 2}
"""Settings of a pool that makes temporary tokens itself. What seals them must come out nowhere."""

LEFT_SECONDS = 10.0  # for what is still ending: the closing figures alone may take half of it


@dataclass(frozen=True, slots=True)
class Live:
    """What a user configures for live sessions, and what stands behind it.

    Attributes:
        url: the pool's base URL.
        token: the team token.
        sim: AssemblyAI.
        served: the server; its certificate is to be trusted.
        app: the pool.
        records: of the exchanges that have ended.
    """

    url: str
    token: str = field(repr=False)
    sim: Simulator
    served: Served
    app: Any
    records: list[ExchangeRecord]

    @property
    def api_host(self) -> str:
        """What the Python SDK is given in place of ``streaming.assemblyai.com``, for sessions and tokens alike."""
        return self.url.removeprefix("https://")

    @property
    def socket_url(self) -> str:
        """What Node's transcribers are given."""
        return f"wss://{self.api_host}/v3/ws"

    @property
    def keys(self) -> tuple[KeySnapshot, ...]:
        """The keys as they stand now."""

        async def snapshot() -> tuple[KeySnapshot, ...]:
            return tuple(self.app.keys())

        return self.served.call(snapshot)

    @property
    def left(self) -> list[str]:
        """What sessions have left behind by now."""
        left = [f"{key.in_flight} leases of {key.id}" for key in self.keys if key.in_flight]
        left += [f"{self.app.open_exchanges} exchanges"] * bool(self.app.open_exchanges)
        left += [f"{self.sim.open_sessions} sessions that cost"] * bool(self.sim.open_sessions)
        left += [f"{self.sim.open_requests} upstream connections"] * bool(self.sim.open_requests)
        return left

    def refused(self, times: int) -> bool:
        """Whether the pool has refused so often by now, and no more often; the last record may be on its way."""
        with contextlib.suppress(TimeoutError):
            self.sim.wait_until(lambda _: self._refusals() >= times)
        return self._refusals() == times

    def _refusals(self) -> int:
        return len([record for record in self.records if record.refused is not None])

    def rest(self) -> None:
        """Wait until every exchange has ended; fail when something is left then."""
        deadline = time.monotonic() + LEFT_SECONDS
        while self.left and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self.left


@contextlib.contextmanager
def live(*, simulator: Simulator | None = None, **settings: Any) -> Iterator[Live]:
    """Open a pool of two keys over TLS, with changes to its settings.

    At the end no lease, no exchange and no session may be left, and upstream must not have seen anything that no sane
    client sends.
    """
    records: list[ExchangeRecord] = []
    settings = {"on_exchange": records.append, **settings}
    with opened(tls=True, simulator=simulator, **settings) as gateway, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(gateway.served.ca))  # what the Python SDK's connections trust
        pool = Live(gateway.url, gateway.token, gateway.sim, gateway.served, gateway.app, records)
        yield pool
        pool.rest()


def health_of(pool: Live, key: str, service: str = "streaming") -> str:
    """Tell the state of a key at a service; ``active`` where nobody has asked for it."""
    (snapshot,) = [each for each in pool.keys if each.id == key]
    health = snapshot.health.get(service)
    return "active" if health is None else health.state.value
