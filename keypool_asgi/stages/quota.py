"""Quota: hold what the exchange may use up, and settle or release it exactly once (invariant I5)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import lru_cache

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.limits import Charge, quota_exceeded
from keypool_asgi.core.teams import Team
from keypool_asgi.errors import Refusal
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import QuotaStore

from .stage import Stage

__all__ = ["Quota", "charges_of"]


class Quota(Stage):
    """Reserves against the team's limits before the exchange, and settles after it.

    Args:
        app: the next stage.
        quotas: the store that counts.
        renew_seconds: how often a long exchange prolongs its permit; well below the store's time to live for permits.
    """

    def __init__(self, app: ASGIApp, *, quotas: QuotaStore, renew_seconds: float = 20.0) -> None:
        super().__init__(app)
        self.quotas = quotas
        self.renew_seconds = renew_seconds

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Reserve, go on, and settle or release whatever happened."""
        charges = charges_of(exchange.team)
        if not charges:
            await self.app(scope, receive, send)
            return
        denial = await self.quotas.reserve(exchange.request_id, charges)
        if denial is not None:
            raise quota_exceeded(denial)
        renewal = _Renewal(self.quotas, exchange.request_id, self.renew_seconds)
        try:
            await self.app(scope, receive, send)
        finally:
            renewal.stop()
            # The store has logged it and the caller has been answered; the permit then expires by itself.
            with suppress(Refusal):
                await self._end(exchange)

    async def _end(self, exchange: Exchange) -> None:
        """Settle what reached upstream; what did not cost nothing."""
        if exchange.reached_upstream:
            await self.quotas.settle(exchange.request_id, {})
        else:
            await self.quotas.release(exchange.request_id)


@lru_cache(maxsize=4096)
def charges_of(team: Team) -> tuple[Charge, ...]:
    """What one exchange of a team is charged: one of each limit's unit."""
    subject = f"team:{team.id}"
    return tuple([Charge(subject, limit) for limit in team.limits])


class _Renewal:
    """Prolongs a permit now and then, by a timer: an exchange that ends before the first one costs no task."""

    __slots__ = ("permit_id", "quotas", "seconds", "task", "timer")

    def __init__(self, quotas: QuotaStore, permit_id: str, seconds: float) -> None:
        self.quotas = quotas
        self.permit_id = permit_id
        self.seconds = seconds
        self.task: asyncio.Task[None] | None = None
        self.timer = asyncio.get_running_loop().call_later(seconds, self._begin)

    def stop(self) -> None:
        self.timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def _begin(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            # A store that is away for a moment must not end the exchange; the permit lives on until it expires.
            with suppress(Refusal):
                await self.quotas.renew(self.permit_id)
            await asyncio.sleep(self.seconds)
