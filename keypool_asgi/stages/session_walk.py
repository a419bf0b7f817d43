"""A WebSocket session's way through the pool: keys are tried, unseen by the caller, until one serves."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.attempts import is_borne_out
from keypool_asgi.core.selection import Need
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import Forbidden, NoAvailableKeys, UpstreamError, UpstreamFailed
from keypool_asgi.exchange import Attempt, Exchange
from keypool_asgi.ports import Lease, LeasingPool

from .stage import KeyRefused, SessionMoves

__all__ = ["SessionWalk"]

logger = logging.getLogger("keypool_asgi")

_UNRELATED = Verdict(Fault.UNRELATED)
_NONE: frozenset[str] = frozenset()

_MOST_DOUBTED = 5
"""Keys that may be refused in words that may be about the request, before the caller gets to read them."""


class SessionWalk:
    """Leases keys for one session, one after the other.

    A key that is refused is not tried again. A connection that fails is the fault of a host: the hosts of other
    regions are tried, and the same one again ``retries`` times.

    Args:
        exchange: the session's.
        pool: where keys are leased.
        regions: every region that there is.
        retries: how often a region whose host has failed is tried again.
    """

    __slots__ = ("doubted", "exchange", "failed_regions", "failure", "pool", "regions", "retries_left", "said", "tried")

    def __init__(self, exchange: Exchange, *, pool: LeasingPool, regions: frozenset[str], retries: int) -> None:
        self.exchange = exchange
        self.pool = pool
        self.regions = regions
        self.retries_left = retries
        self.tried = self.failed_regions = _NONE
        self.failure: UpstreamError | None = None
        self.doubted: list[tuple[Lease, Verdict]] = []
        self.said = ""

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the session.

        Raises:
            NoAvailableKeys: no key is left that could serve.
            Forbidden: every key was refused for what may be the session's own fault.
            UpstreamFailed: no host can be reached, or none serves.
        """
        while not await self._attempt(app, scope, receive, send):
            pass

    async def _attempt(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> bool:
        """Try one key. Returns whether it has served, or the caller has left."""
        lease = await self._lease()
        attempt = Attempt(lease.key, judge=partial(self._judge, lease))
        self.exchange.attempts.append(attempt)
        verdict = _UNRELATED
        try:
            await app(scope, receive, send)
        except KeyRefused as refused:
            logger.warning("request %s: key %s: %s", self.exchange.request_id, lease.key.id, refused)
            self.tried |= {lease.key.id}
            if refused.verdict.certain:
                verdict = refused.verdict
            else:
                self.doubted.append((lease, refused.verdict))
                self.said = refused.said
            return False
        except SessionMoves:
            return False
        except UpstreamError as failure:
            logger.warning("request %s: upstream failed: %s", self.exchange.request_id, failure)
            attempt.failure = self.failure = failure
            self.failed_regions |= {lease.key.region}
            return False
        finally:
            attempt.judge = _too_late  # the exchange would hold this walk, and the walk the exchange
            await self.pool.give_back(lease, verdict)
        return True

    def _judge(self, lease: Lease, verdict: Verdict) -> None:
        """Tell the pool what a session says about its key; one that is served bears out what others were blamed for."""
        self.pool.judge(lease, verdict)
        if verdict.fault is Fault.NONE:
            for doubted, blame in self.doubted:
                if is_borne_out(blame, doubted.key, lease.key):
                    self.pool.judge(doubted, replace(blame, certain=True))
            self.doubted.clear()

    async def _lease(self) -> Lease:
        if len(self.doubted) == len(self.tried) >= _MOST_DOUBTED and self.said:
            raise self._refused_for_its_own_sake()
        if self.failure is None:
            return await self._lease_anywhere()
        allowed = self.exchange.team.regions or self.regions
        try:
            return await self.pool.lease(self._need(allowed - self.failed_regions))
        except NoAvailableKeys:
            if self.retries_left <= 0:
                raise UpstreamFailed.because(self.failure) from None
        self.retries_left -= 1
        return await self._lease_anywhere()

    async def _lease_anywhere(self) -> Lease:
        try:
            return await self.pool.lease(self._need(self.exchange.team.regions))
        except NoAvailableKeys:
            if self.said and len(self.doubted) == len(self.tried):
                raise self._refused_for_its_own_sake() from None
            raise

    def _refused_for_its_own_sake(self) -> Forbidden:
        """Every key got an answer that may be about what was asked for: then that is the caller's to read."""
        return Forbidden(f"AssemblyAI refuses this session: {self.said}")

    def _need(self, regions: frozenset[str] | None) -> Need:
        return Need(
            service=self.exchange.operation.service,
            regions=regions,
            project=self.exchange.project,
            tried=self.tried,
        )


def _too_late(verdict: Verdict) -> None:
    """Take what is said to an attempt that is over."""
