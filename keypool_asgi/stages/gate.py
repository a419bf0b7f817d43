"""Gate: count the exchanges that are going on, and let no new one in while the process is draining."""

from __future__ import annotations

import asyncio

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.close_codes import DRAINING
from keypool_asgi.errors import Draining
from keypool_asgi.exchange import Exchange

from .stage import Stage

__all__ = ["Gate"]

_RETRY_AFTER_SECONDS = 1.0


class Gate(Stage):
    """Stands behind intercept and knows when the last exchange has ended.

    Attributes:
        open_exchanges: exchanges that are going on now.
        draining: whether new ones are refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self.open_exchanges = 0
        self.draining = False
        self._sessions: set[Exchange] = set()
        self._empty: asyncio.Event | None = None

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one exchange, or refuse it while draining."""
        if self.draining:
            raise Draining(
                "This server is shutting down; send the request again, to another one.",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        self.open_exchanges += 1
        is_session = scope["type"] == "websocket"
        if is_session:
            self._sessions.add(exchange)
        try:
            await self.app(scope, receive, send)
        finally:
            self.open_exchanges -= 1
            if is_session:
                self._sessions.discard(exchange)
            if not self.open_exchanges and self._empty is not None:
                self._empty.set()

    def reopen(self) -> None:
        """Let exchanges in again: the app is started once more."""
        self.draining = False

    async def drain(self, seconds: float) -> bool:
        """Refuse new exchanges from now on, and wait for the open ones. Returns whether all ended within ``seconds``.

        Requests may end; WebSocket sessions are ended in order, for they could last for hours.
        May be called again meanwhile: a hook before the shutdown and the shutdown itself both do.
        """
        self.draining = True
        for exchange in tuple(self._sessions):
            exchange.stop(DRAINING)
        return await self.emptied(seconds)

    async def emptied(self, seconds: float) -> bool:
        """Wait until no exchange is going on. Returns whether that was so within ``seconds``."""
        if self.open_exchanges:
            if self._empty is None or self._empty.is_set():
                self._empty = asyncio.Event()
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                return False
        return True
