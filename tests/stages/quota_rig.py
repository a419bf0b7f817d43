"""A quota stage alone: before an ASGI app that the test writes, with an exchange as the stages before it make one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from faults.rig import Caller

from keypool_asgi.asgi import ASGIApp
from keypool_asgi.core.charging import Tariff
from keypool_asgi.core.headers import Framing
from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.core.prices import NO_PRICES
from keypool_asgi.core.reservations import standing
from keypool_asgi.core.teams import Team
from keypool_asgi.exchange import SCOPE_KEY, Exchange
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.providers.assemblyai.metering import METERING
from keypool_asgi.stages.quota import Quota
from keypool_asgi.stores.quotas import MemoryQuotas

__all__ = ["NOW", "QuotaRig", "answering"]

NOW = 1_900_000_000.0


class QuotaRig:
    """A team with limits, a store in memory whose clock the test moves, and the stage.

    Attributes:
        now: Unix time.
        store: the memory behind the stage.
        exchanges: every exchange so far, in order.
    """

    def __init__(self, *limits: Limit, app: ASGIApp | None = None, wrap: Any = None, **settings: Any) -> None:
        self.now = NOW
        self.store = MemoryQuotas(clock=lambda: self.now)
        self.team = Team("team-a", limits=limits)
        self.exchanges: list[Exchange] = []
        given: dict[str, Any] = {
            "tariff": Tariff(
                METERING, prices=settings.pop("prices", NO_PRICES), estimates=settings.pop("estimates", None)
            ),
            "clock": lambda: self.now,
            "quotas": wrap(self.store) if wrap else self.store,
        }
        self.stage = Quota(app or answering(), **(given | settings))

    async def ask(
        self,
        operation: str,
        *,
        body: Iterable[bytes] = (),
        length: int | None = None,
        query: bytes = b"",
        ids: dict[str, str] | None = None,
        caller: Caller | None = None,
    ) -> Caller:
        """One request. ``length`` is the declared one; None is chunked where there is a body."""
        pieces = list(body)
        framing = Framing(
            length if length is not None else (None if pieces else 0), chunked=length is None and bool(pieces)
        )
        exchange = self._exchange(operation, framing, ids)
        scope = {
            "type": "http",
            "method": "GET",
            "headers": [(b"accept-encoding", b"gzip, br, zstd")],
            "query_string": query,
            SCOPE_KEY: exchange,
        }
        caller = caller or Caller(pieces)
        await self.stage(scope, caller.receive, caller.send)
        return caller

    async def connect(self, operation: str, receive: Any = None, send: Any = None) -> Exchange:
        """One session. The app plays the relay."""
        exchange = self._exchange(operation, Framing(0, chunked=False), None)
        scope = {
            "type": "websocket",
            "headers": [],
            "query_string": b"",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
            SCOPE_KEY: exchange,
        }
        await self.stage(scope, receive or _connects, send or _ignores)
        return exchange

    def left(self, limit: Limit) -> int:
        """How much of a limit the team has left now."""
        charge = Charge("team:team-a", limit)
        return standing(limit, self.store.seen([charge]).get(charge.slot), int(self.now * 1e6))[0]

    @property
    def permits(self) -> set[str]:
        """Ids of the permits that are held."""
        return {permit_id for permits in self.store._lives.values() for permit_id in permits}

    def _exchange(self, operation: str, framing: Framing, ids: dict[str, str] | None) -> Exchange:
        number = len(self.exchanges) + 1
        exchange = Exchange(
            f"r{number}", ASSEMBLYAI.table.named(operation), "/x", ids or {}, framing, lambda: "http://own"
        )
        exchange.team = self.team
        self.exchanges.append(exchange)
        return exchange


def answering(
    body: bytes = b"{}",
    *,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
    pieces: int = 1,
    then: Any = None,
) -> ASGIApp:
    """An app that reads the request, as the stages behind do, and answers for upstream.

    Args:
        body: of the answer.
        status: of the answer.
        headers: of the answer.
        pieces: how many the body comes in.
        then: called with the scope and the bytes that came, before the answer.
    """

    async def app(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        came, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            came += len(message.get("body", b""))
            more = message.get("more_body", False)
        scope[SCOPE_KEY].reached_upstream = True
        if then is not None:
            then(scope, came)
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        size = -(-len(body) // pieces) or 1
        for at in range(0, max(len(body), 1), size):
            await send({"type": "http.response.body", "body": body[at : at + size], "more_body": at + size < len(body)})

    return app


async def _connects() -> dict[str, Any]:
    return {"type": "websocket.connect"}


async def _ignores(_: Any) -> None:
    return None
