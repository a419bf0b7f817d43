"""Everything that several machines share, by one URL."""

from __future__ import annotations

from .health import RedisHealthBoard
from .ledger import RedisLedger
from .quotas import RedisQuotas
from .resources import RedisResources
from .server import RedisServer

__all__ = ["RedisState"]


class RedisState:
    """What ``state="redis://..."`` stands for: four stores in one server.

    Args:
        server: a URL, or a ``RedisServer`` with settings of its own.
        permit_ttl_seconds: how long a permit lives that is neither renewed nor ended.

    Attributes:
        resources: who owns what.
        quotas: what is used up.
        ledger: the account.
        board: what keys are worth.

    Raises:
        ConfigurationError: a setting is wrong, or redis-py is not installed.
    """

    def __init__(self, server: str | RedisServer, *, permit_ttl_seconds: float = 120) -> None:
        self._server = server if isinstance(server, RedisServer) else RedisServer(server)
        self.resources = RedisResources(self._server)
        self.quotas = RedisQuotas(self._server, permit_ttl_seconds=permit_ttl_seconds)
        self.ledger = RedisLedger(self._server)
        self.board = RedisHealthBoard(self._server)

    def __repr__(self) -> str:
        return f"<RedisState in {self._server!r}>"

    async def open(self) -> None:
        """Connect now; the first use does it otherwise. See ``RedisServer.open``."""
        await self._server.open()

    async def aclose(self) -> None:
        """Finish what has begun and disconnect; the next use connects again."""
        await self._server.aclose()
