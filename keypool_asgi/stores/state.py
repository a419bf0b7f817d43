"""What ``state`` stands for: stores that several processes share, by one URL."""

from __future__ import annotations

from typing import Protocol

from keypool_asgi.errors import ConfigurationError
from keypool_asgi.ports import Ledger, QuotaKeeper, ResourceStore

from .health_sharing import HealthBoard

__all__ = ["State", "state_at"]


class State(Protocol):
    """Stores that are opened and closed together."""

    @property
    def resources(self) -> ResourceStore:
        """Who owns what."""

    @property
    def quotas(self) -> QuotaKeeper:
        """What is used up."""

    @property
    def ledger(self) -> Ledger:
        """The account."""

    @property
    def board(self) -> HealthBoard | None:
        """Where processes tell each other what they find out about keys; None where they cannot."""

    async def open(self) -> None:
        """Open them now; the first use does it otherwise.

        Raises:
            ConfigurationError: what is there cannot be used, now or later.
        """

    async def aclose(self) -> None:
        """Finish what has begun, and close them; the next use opens them again."""


def state_at(url: str) -> State:
    """Return the stores at ``sqlite:///file``, ``redis://host`` or ``rediss://host``.

    Raises:
        ConfigurationError: it is no such URL, or the package for it is not installed.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in ("redis", "rediss"):
        from .redis import RedisState

        return RedisState(url)
    if scheme == "sqlite":
        from .sqlite_state import SqliteState

        return SqliteState(url)
    raise ConfigurationError(f"state: must begin with sqlite:///, redis:// or rediss://, not {scheme}://")
