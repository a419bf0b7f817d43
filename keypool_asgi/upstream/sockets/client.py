"""Opens WebSocket connections to upstream."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from keypool_asgi.core.messages import RequestHead
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.errors import ConnectFailed
from keypool_asgi.upstream.connection import Connection
from keypool_asgi.upstream.connections import Connections
from keypool_asgi.upstream.settings import Timeouts

from .handshake import Upgrade, encode_upgrade

if TYPE_CHECKING:
    from .frames import FrameWriter
    from .socket import NativeSocket
    from .upgrade import OpeningSocket

__all__ = ["NativeSockets"]

_DEFAULT_TIMEOUTS = Timeouts()
_DEFAULT_LIMITS = SessionLimits()


class NativeSockets:
    """An ``UpstreamSockets``: every socket has a connection of its own, which is never used again.

    It belongs to the event loop that it runs on; on another loop it starts without connections. After ``aclose`` it
    may be used again. Proxies of the environment are not used, and neither compression nor any other extension.

    Args:
        timeouts: how long connecting and each write may take.
        limits: of each session; of these, sizes, ``ping_seconds`` and ``closing_seconds`` are kept here.
        ssl_context: how upstream's certificate is checked; None trusts what the system trusts.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        limits: SessionLimits = _DEFAULT_LIMITS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._frames: FrameWriter | None = None  # of all sockets: an idle one need not have masks in store
        self._connections = Connections(timeouts=timeouts, ssl_context=ssl_context)

    def warm(self) -> None:
        """Import what the first ``open()`` would import: some 70 ms, better spent before there is a caller."""
        from . import upgrade  # noqa: F401

    async def open(self, head: RequestHead, *, last_words: str | None = None) -> NativeSocket:
        """Connect and upgrade, within ``head.patience`` seconds.

        Args:
            head: the upgrade request.
            last_words: a message that the socket sends when it fails the connection itself.

        Raises:
            ConnectFailed: no connection could be made; nothing of the request left.
            UpgradeRefused: upstream answered with an ordinary response.
            UpstreamTimeout: upstream did not answer within ``head.patience`` seconds.
            UpstreamError: upstream broke off, or its answer is malformed.
            ValueError: the head is no well-formed GET without a body, or has fields of the handshake itself.
        """
        upgrade = encode_upgrade(head)
        self.warm()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + head.patience
        conn = await self._connect(head, deadline)
        try:
            opening = self._opening(conn, upgrade, last_words)
            try:
                async with asyncio.timeout_at(deadline):
                    return await opening.opened(upgrade.request)
            except TimeoutError:
                raise opening.late(head.patience) from None
        except BaseException:
            self._connections.discard(conn)
            raise

    async def aclose(self) -> None:
        """Cut every open connection; returns when none is left."""
        await self._connections.aclose()

    async def _connect(self, head: RequestHead, deadline: float) -> Connection:
        origin = head.origin
        key = (origin.scheme, origin.host, origin.port)
        self._connections.take_idle(key)  # there is none: this binds to the loop that is running
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connections.acquire_new(key)
        except TimeoutError:
            raise ConnectFailed(f"no connection to {origin.host}:{origin.port} within {head.patience:g} s") from None

    def _opening(self, conn: Connection, upgrade: Upgrade, last_words: str | None) -> OpeningSocket:
        from .frames import FrameWriter
        from .upgrade import OpeningSocket

        self._frames = self._frames or FrameWriter()
        return OpeningSocket(conn, upgrade.accept, self._limits, self._frames, last_words)
