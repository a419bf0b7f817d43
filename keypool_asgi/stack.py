"""The stack: the stages put together, around a host app or alone, with the resources that they share.

::

    scope -> intercept -> gate -> auth -> quota -> minting -> ownership -> lists -> key selector -> forwarder | relay
                 |                                                                                       |
                 └-> host app, for every path that is not the pool's                                 AssemblyAI
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Unpack

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.health import HealthPolicy
from keypool_asgi.core.minting import MintRules
from keypool_asgi.core.operations import OperationTable
from keypool_asgi.core.provider import OriginOverrides
from keypool_asgi.core.selection import Select
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.core.temporary_tokens import TokenIssuer
from keypool_asgi.errors import ConfigurationError, MissingStage, StoreUnavailable
from keypool_asgi.lifespan import Lifespan
from keypool_asgi.ports import QuotaStore, ResourceStore, UpstreamClient
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.settings import Keys, Settings, Teams
from keypool_asgi.stages.adopting import adopt
from keypool_asgi.stages.asking import Asker
from keypool_asgi.stages.auth import Auth
from keypool_asgi.stages.forwarder import Forwarder
from keypool_asgi.stages.gate import Gate
from keypool_asgi.stages.intercept import Intercept, OnExchange, SocketRefusals
from keypool_asgi.stages.key_selector import KeySelector
from keypool_asgi.stages.lists import Lists
from keypool_asgi.stages.minting import Minting
from keypool_asgi.stages.ownership import Ownership
from keypool_asgi.stages.quota import Quota
from keypool_asgi.stages.relay import Relay
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.quotas import QuotaCallbacks, quota_store
from keypool_asgi.stores.resources import MemoryResources, ResourceCallbacks, resource_store
from keypool_asgi.stores.roster import KeySnapshot
from keypool_asgi.stores.teams import team_directory
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.sockets import NativeSockets

if TYPE_CHECKING:
    import httpx

    from keypool_asgi.reference import Reference
    from keypool_asgi.stores.sqlite import SqliteResources

__all__ = ["KeyPool", "KeyPoolMiddleware", "Keys", "Settings", "Teams"]

logger = logging.getLogger("keypool_asgi")


class _Stack:
    """What the middleware and the app have in common."""

    def __init__(
        self,
        host: ASGIApp | None,
        *,
        keys: Keys,
        teams: Teams,
        quotas: QuotaStore | QuotaCallbacks | None = None,
        resources: ResourceStore | ResourceCallbacks | None = None,
        state: str | None = None,
        isolation: Literal["team", "off"] = "team",
        prefix: str = "/v1/assemblyai",
        origins: OriginOverrides | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        pepper: str | bytes | None = None,
        public_url: str | None = None,
        reference: bool = False,
        on_exchange: OnExchange | None = None,
        health: HealthPolicy | None = None,
        select: Select | None = None,
        timeouts: Timeouts | None = None,
        sessions: SessionLimits | None = None,
        socket_refusals: SocketRefusals = "auto",
        allowed_origins: Iterable[str] | None = None,
        streaming_tokens: Literal["assemblyai", "keypool"] = "assemblyai",
        streaming_token_secret: str | bytes | Sequence[str | bytes] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int | None = None,
        key_wait_seconds: float = 1.0,
        keys_ttl_seconds: float = 60.0,
        teams_ttl_seconds: float = 60.0,
        unknown_teams_ttl_seconds: float = 10.0,
        retries: int = 1,
        peek_bytes: int = 256 * 1024,
        max_body_bytes: int = 5 * 1024**3,
        discard_bytes: int = 1024**2,
        drain_seconds: float = 5.0,
        via: str | None = "keypool-asgi",
    ) -> None:
        _check_amounts(
            retries=retries,
            peek_bytes=peek_bytes,
            max_body_bytes=max_body_bytes,
            discard_bytes=discard_bytes,
            drain_seconds=drain_seconds,
            key_wait_seconds=key_wait_seconds,
        )
        _check_durations(
            keys_ttl_seconds=keys_ttl_seconds,
            teams_ttl_seconds=teams_ttl_seconds,
            unknown_teams_ttl_seconds=unknown_teams_ttl_seconds,
        )
        _check_texts(public_url, via)
        self._provider = provider = ASSEMBLYAI.with_origins(origins)
        self._pool = Pool(
            keys,
            check=provider.check_key,
            policy=health,
            wait_seconds=key_wait_seconds,
            ttl_seconds=keys_ttl_seconds,
            select=select,
        )
        timeouts, sessions = timeouts or Timeouts(), sessions or SessionLimits()
        issuer = _issuer(streaming_tokens, streaming_token_secret)
        self._client = _client(transport, timeouts, ssl_context, max_connections)
        self._sockets = NativeSockets(timeouts=timeouts, limits=sessions, ssl_context=ssl_context)
        directory = team_directory(
            teams, pepper=pepper, ttl_seconds=teams_ttl_seconds, negative_ttl_seconds=unknown_teams_ttl_seconds
        )
        self._owned = _state(state)
        self._resources = resource_store(resources) if resources is not None or self._owned is None else self._owned
        shared = _is_shared(isolation)
        announced = via.encode("ascii") if via else None
        self._asker = Asker(pool=self._pool, client=self._client, provider=provider, via=announced)
        self._relay = Relay(_nothing_here, sockets=self._sockets, provider=provider, limits=sessions, via=via)
        app: ASGIApp = self._relay
        app = Forwarder(app, client=self._client, provider=provider, via=via, max_body_bytes=max_body_bytes)
        app = KeySelector(app, pool=self._pool, provider=provider, peek_bytes=peek_bytes, retries=retries)
        app = Lists(app, resources=self._resources, provider=provider, asker=self._asker, shared=shared)
        app = Ownership(
            app,
            resources=self._resources,
            rules=provider.resources,
            minting=provider.minting if issuer is None else None,
            asker=self._asker if shared else None,
            forgets=isinstance(self._resources, MemoryResources),
        )
        app = Minting(
            app,
            rules=provider.minting,
            max_session_seconds=_shortest_cap(provider.minting, sessions),
            issuer=issuer,
        )
        app = Quota(app, quotas=quota_store(quotas))
        app = Auth(
            app,
            teams=directory,
            resources=self._resources,
            rules=provider.resources,
            issuer=issuer,
            allowed_origins=allowed_origins,
        )
        self._gate = Gate(app)
        self._intercept = Intercept(
            self._gate,
            table=provider.table,
            host=host,
            prefix=_checked_prefix(prefix),
            public_url=public_url,
            max_body_bytes=max_body_bytes,
            discard_bytes=discard_bytes,
            socket_refusals=_checked_form(socket_refusals),
            beside=_reference(provider.table, public_url) if reference else None,
            on_exchange=on_exchange,
        )
        self._drain_seconds = drain_seconds
        self._lifespan = Lifespan(host, startup=self._open, stopping=self.drain, shutdown=self.aclose)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the pool's requests, and pass every other one to the host app."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._intercept(scope, receive, send)

    def keys(self) -> tuple[KeySnapshot, ...]:
        """Every key as it stands now: its health by service and what it has in flight. Never its secret."""
        return self._pool.snapshot()

    async def reload_keys(self) -> None:
        """Ask the source of the keys again, now: for a rotation that must not wait for ``keys_ttl_seconds``.

        Raises:
            ConfigurationError: the source returned something that is not a list of keys.
            StoreUnavailable: the source failed.
        """
        await self._pool.refresh()

    @property
    def open_exchanges(self) -> int:
        """Exchanges that are going on now."""
        return self._gate.open_exchanges

    async def adopt(self, team: str, project: str, progress: Callable[[int], None] | None = None) -> int:
        """Give a team the transcripts that a project holds already; see ``stages.adopting.adopt``."""
        return await adopt(
            team,
            project,
            asker=self._asker,
            provider=self._provider,
            resources=self._resources,
            progress=progress,
        )

    async def drain(self, seconds: float | None = None) -> None:
        """Refuse new exchanges with 503 and let the open ones end, for ``seconds`` at most (``drain_seconds``)."""
        if not await self._gate.drain(self._drain_seconds if seconds is None else seconds):
            logger.warning("drain: %d exchanges are still going on", self._gate.open_exchanges)

    async def aclose(self) -> None:
        """Close the upstream connections. For mounts: a host's lifespan does this where the server sends one."""
        await self._pool.aclose()
        await self._relay.aclose()
        await self._sockets.aclose()
        await self._client.aclose()
        if self._owned is not None:
            await self._owned.aclose()

    async def _open(self) -> None:
        """Open the state file and load the keys before the first request.

        A key source that fails now may be back when a request comes; a file of another kind will not become one.
        """
        self._gate.reopen()
        self._sockets.warm()
        if self._owned is not None:
            await self._owned.open()
        try:
            await self.reload_keys()
        except (StoreUnavailable, ConfigurationError) as error:
            logger.warning("the keys could not be loaded at startup: %s", error)


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


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Stand behind the last stage, which passes nothing on."""
    raise MissingStage(f"no stage serves a scope of type {scope['type']!r}")


def _client(
    transport: httpx.AsyncBaseTransport | None,
    timeouts: Timeouts,
    ssl_context: ssl.SSLContext | None,
    max_connections: int | None,
) -> UpstreamClient:
    if transport is None:
        return NativeClient(timeouts=timeouts, ssl_context=ssl_context, max_connections=max_connections)
    from keypool_asgi.upstream.httpx_door import HttpxClient

    return HttpxClient(transport, timeouts=timeouts)


def _state(url: str | None) -> SqliteResources | None:
    if url is None:
        return None
    from keypool_asgi.stores.sqlite import SqliteResources

    return SqliteResources.from_url(url)


def _is_shared(isolation: str) -> bool:
    if isolation not in ("team", "off"):
        raise ConfigurationError(f"isolation must be 'team' or 'off', not {isolation!r}")
    return isolation == "off"


def _check_amounts(**settings: float) -> None:
    for name, value in settings.items():
        if not value >= 0:
            raise ConfigurationError(f"{name} must not be negative, not {value!r}")


def _check_durations(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise ConfigurationError(f"{name} must be greater than 0, not {value!r}")


def _check_texts(public_url: str | None, via: str | None) -> None:
    if public_url is not None and not public_url.startswith(("http://", "https://")):
        raise ConfigurationError(f"public_url must be an absolute http or https URL, not {public_url!r}")
    if via is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", via):
        raise ConfigurationError(f"via must be a name of letters, digits, dots and dashes, not {via!r}")


def _reference(table: OperationTable, public_url: str | None) -> Reference:
    from keypool_asgi.reference import Reference

    return Reference(_nothing_here, table=table, public_url=public_url)


def _issuer(streaming_tokens: str, secret: str | bytes | Sequence[str | bytes] | None) -> TokenIssuer | None:
    if streaming_tokens not in ("assemblyai", "keypool"):
        raise ConfigurationError(f"streaming_tokens must be 'assemblyai' or 'keypool', not {streaming_tokens!r}")
    if streaming_tokens == "assemblyai":
        if secret is not None:
            raise ConfigurationError("streaming_token_secret is for streaming_tokens='keypool' only")
        return None
    if secret is None:
        raise ConfigurationError("streaming_tokens='keypool' needs streaming_token_secret, the same in every process")
    return TokenIssuer(secret)


def _shortest_cap(rules: MintRules, limits: SessionLimits) -> int:
    """How long sessions of a temporary token may last: as long as others, as far as a token can be made for that."""
    least, most = rules.sessions
    return max(least, min(most, int(limits.session_seconds)))


def _checked_form(form: SocketRefusals) -> SocketRefusals:
    if form not in ("auto", "http", "in_band"):
        raise ConfigurationError(f"socket_refusals must be 'auto', 'http' or 'in_band', not {form!r}")
    return form


def _checked_prefix(prefix: str) -> str:
    if not prefix.startswith("/") or prefix.endswith("/") or not prefix.isascii():
        raise ConfigurationError(f"prefix must start with a slash and not end with one, not {prefix!r}")
    return prefix
