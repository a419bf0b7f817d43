"""Relay: the stage that serves WebSocket sessions, each until upstream's side of it has ended (invariant I8)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.headers import NO_BODY
from keypool_asgi.core.messages import RequestHead
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.requests import upstream_request
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.core.tokens import chosen_subprotocol
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import UpstreamSockets

from .relayed_session import RelayedSession
from .stage import Stage

__all__ = ["Relay"]


class Relay(Stage):
    """Serves WebSocket sessions. The last stage for them.

    Args:
        app: what serves HTTP: the forwarder.
        sockets: opens connections to upstream.
        provider: where services are, and how their sessions begin and end.
        limits: what a session may take.
        via: how we announce ourselves to upstream in ``Via``, None for not at all.
        clock: Unix time in seconds, for dates in answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sockets: UpstreamSockets,
        provider: Provider,
        limits: SessionLimits | None = None,
        via: str | None = "keypool-asgi",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        self.sockets = sockets
        self.provider = provider
        self.limits = limits or SessionLimits()
        self.via = via.encode("ascii") if via else None
        self.clock = clock
        self._partings: set[asyncio.Task[None]] = set()

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one session on the attempt's key.

        Raises:
            KeyRefused: this key does not serve the session, and nothing of it has reached the caller.
            UpstreamError: upstream could not be reached or failed before it served.
        """
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        rules = self.provider.sessions[exchange.operation.service]
        session = RelayedSession(self, exchange, rules, chosen_subprotocol(scope["subprotocols"]), send)
        try:
            await session.run(scope, receive)
        finally:
            await self._part(session)

    def upgrade_request(self, exchange: Exchange, scope: Scope) -> RequestHead:
        """Return what asks upstream for the session, on the attempt's key."""
        key = exchange.attempt.key
        return upstream_request(
            "GET",
            exchange.path,
            scope["query_string"],
            scope["headers"],
            operation=exchange.operation,
            framing=NO_BODY,
            origin=self.provider.origins[key.region][exchange.operation.service],
            key=key,
            token=exchange.token.reveal(),
            via=self.via,
        )

    async def aclose(self) -> None:
        """Wait for the sessions that are being ended upstream, whose callers have left."""
        while self._partings:
            await asyncio.wait(self._partings)

    async def _part(self, session: RelayedSession) -> None:
        """End the session upstream, whatever becomes of this task.

        The exchange waits for it, unless it goes on elsewhere: its lease and its permit are held while anything costs.
        """
        if session.is_closed:
            return
        parting = asyncio.get_running_loop().create_task(session.part())
        self._partings.add(parting)
        parting.add_done_callback(self._partings.discard)
        if not session.moved_on:
            await asyncio.shield(parting)
