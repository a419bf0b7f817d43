"""The stack: the pool around a host app, or alone.

::

    scope -> intercept -> gate -> auth -> accounting -> quota -> minting -> ownership -> lists -> key selector
                 |                                                                                   |
                 └-> host app, for every path that is not the pool's              AssemblyAI <- forwarder | relay
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Self, Unpack

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.assembly import assemble
from keypool_asgi.core.usage import Selection, UsageSum
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.lifespan import Lifespan
from keypool_asgi.settings import Keys, Settings, Teams
from keypool_asgi.stages.adopting import adopt
from keypool_asgi.stores.roster import KeySnapshot

__all__ = ["KeyPool", "KeyPoolMiddleware", "Keys", "Settings", "Teams"]

logger = logging.getLogger("keypool_asgi")

# What has been cut ends at once, unless its caller takes nothing any more.
_SETTLE_SECONDS = 1.0


class _Stack:
    """What the middleware and the app have in common."""

    def __init__(self, host: ASGIApp | None, *, keys: Keys, teams: Teams, **settings: Unpack[Settings]) -> None:
        self._parts = assemble(host, keys=keys, teams=teams, **settings)
        self._lifespan = Lifespan(host, startup=self._open, stopping=self.drain, shutdown=self.aclose)
        self._way = self._parts.intercept.way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the pool's requests, and pass every other one to the host app."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._way(scope)(scope, receive, send)

    def keys(self) -> tuple[KeySnapshot, ...]:
        """Every key as it stands now: its health by service and what it has in flight. Never its secret."""
        return self._parts.pool.snapshot()

    async def reload_keys(self) -> None:
        """Ask the source of the keys again, now: for a rotation that must not wait for ``keys_ttl_seconds``.

        Raises:
            ConfigurationError: the source returned something that is not a list of keys.
            StoreUnavailable: the source failed.
        """
        await self._parts.pool.refresh()

    @property
    def open_exchanges(self) -> int:
        """Exchanges that are going on now."""
        return self._parts.gate.open_exchanges

    async def adopt(self, team: str, project: str, progress: Callable[[int], None] | None = None) -> int:
        """Give a team the transcripts that a project holds already; see ``stages.adopting.adopt``."""
        return await adopt(
            team,
            project,
            asker=self._parts.asker,
            provider=self._parts.provider,
            resources=self._parts.resources,
            progress=progress,
        )

    async def usage(
        self,
        *by: str,
        team: str | None = None,
        operation: str | None = None,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Sequence[UsageSum]:
        """Add up the account: of all processes that share ``state``, or of this one.

        Args:
            by: one sum for each of ``"team"``, ``"operation"``, ``"key"``, ``"account"``, ``"project"``, ``"day"`` or
                ``"hour"``; several make one for each combination, none makes one in all.
            team: only this team's.
            operation: only this operation's.
            key: only this key's.
            since: from this Unix time on, in whole hours.
            until: up to this Unix time, in whole hours.

        Raises:
            ConfigurationError: there is no such dimension, or a time is not a whole hour.
            StoreUnavailable: the account cannot be read.
        """
        await self._parts.books.flush()
        selection = Selection(team=team, operation=operation, key=key, since=since, until=until)
        return await self._parts.books.ledger.sums(selection, by)

    async def drain(self, seconds: float | None = None) -> None:
        """Refuse new exchanges with 503 and let the open ones end, for ``seconds`` at most (``drain_seconds``)."""
        gate = self._parts.gate
        if not await gate.drain(self._parts.drain_seconds if seconds is None else seconds):
            logger.warning("drain: %d exchanges are still going on", gate.open_exchanges)

    async def aclose(self) -> None:
        """Drain, if that was not done, and close the connections and stores.

        For mounts: a host's lifespan does this where the server sends one. It may take as long as a drain, and as the
        end of a session (``SessionLimits.closing_seconds``, twice).
        """
        parts = self._parts
        was_open = not parts.gate.draining
        if was_open:
            await self.drain()  # sessions that are cut would run on upstream, and cost (I8)
        if parts.reconciler is not None:
            await parts.reconciler.aclose()
        await parts.relay.aclose()
        await parts.sockets.aclose()
        await parts.client.aclose()
        await parts.gate.emptied(_SETTLE_SECONDS)  # what was cut settles its permits before their store is closed
        await parts.accounting.aclose()
        await parts.books.aclose()  # when every record has been made, and before the ledger is closed
        await parts.pool.aclose()
        if parts.state is not None:
            await parts.state.aclose()
        if was_open:
            parts.gate.reopen()

    async def _open(self) -> None:
        """Open what is shared and load the keys before the first request.

        A key source that fails now may be back when a request comes; a file of another kind will not become one.
        """
        self._parts.gate.reopen()
        self._parts.sockets.warm()
        if self._parts.state is not None:
            await self._parts.state.open()
        try:
            await self.reload_keys()
        except (StoreUnavailable, ConfigurationError) as error:
            logger.warning("the keys could not be loaded at startup: %s", error)
        if self._parts.reconciler is not None:
            self._parts.reconciler.start()


class KeyPoolMiddleware(_Stack):
    """A pool of AssemblyAI keys inside a host app: answers below ``prefix``, passes every other path on untouched.

    Args:
        app: the host app.
        keys: the pool's keys, see ``Keys``.
        teams: who may use them, see ``Teams``.
        settings: see ``Settings``.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, teams: Teams, **settings: Unpack[Settings]) -> None:
        super().__init__(app, keys=keys, teams=teams, **settings)

    @classmethod
    def from_config(
        cls,
        app: ASGIApp,
        path: str | PathLike[str],
        *,
        keys: Keys | None = None,
        teams: Teams | None = None,
        **settings: Unpack[Settings],
    ) -> Self:
        """Make it as a TOML file says (``examples/keypool.toml``); what is given here goes before the file.

        Raises:
            ConfigurationError: something in the file, or a setting, is wrong; the message names it.
        """
        from keypool_asgi.configuration import build

        return build(partial(cls, app), path, settings, keys=keys, teams=teams)


class KeyPool(_Stack):
    """The same without a host app, to be mounted (``Mount("/v1/assemblyai", KeyPool(...))``) or served alone.

    Args:
        keys: the pool's keys, see ``Keys``.
        teams: who may use them, see ``Teams``.
        settings: see ``Settings``.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """

    def __init__(self, *, keys: Keys, teams: Teams, **settings: Unpack[Settings]) -> None:
        super().__init__(None, keys=keys, teams=teams, **settings)

    @classmethod
    def from_config(
        cls,
        path: str | PathLike[str],
        *,
        keys: Keys | None = None,
        teams: Teams | None = None,
        **settings: Unpack[Settings],
    ) -> Self:
        """Make it as a TOML file says (``examples/keypool.toml``); what is given here goes before the file.

        Raises:
            ConfigurationError: something in the file, or a setting, is wrong; the message names it.
        """
        from keypool_asgi.configuration import build

        return build(cls, path, settings, keys=keys, teams=teams)
