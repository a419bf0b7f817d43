"""Assembly: settings checked, the parts of a stack made of them, and the stages put one before the other."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.charging import Estimates, Tariff
from keypool_asgi.core.health import HealthPolicy
from keypool_asgi.core.minting import MintRules
from keypool_asgi.core.operations import Operation, OperationTable
from keypool_asgi.core.prices import Prices, PriceTable
from keypool_asgi.core.provider import OriginOverrides, Provider
from keypool_asgi.core.selection import Select
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.core.teams import Team
from keypool_asgi.core.temporary_tokens import TokenIssuer
from keypool_asgi.errors import ConfigurationError, MissingStage
from keypool_asgi.ports import LeasingPool, Ledger, QuotaKeeper, QuotaStore, ResourceStore, UpstreamClient
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.settings import Keys, Teams
from keypool_asgi.stages.accounting import Accounting
from keypool_asgi.stages.asking import Asker
from keypool_asgi.stages.auth import Auth
from keypool_asgi.stages.bookkeeping import Bookkeeper, OnUsage
from keypool_asgi.stages.forwarder import Forwarder
from keypool_asgi.stages.gate import Gate
from keypool_asgi.stages.intercept import Intercept, OnExchange, SocketRefusals
from keypool_asgi.stages.key_limits import LimitedPool, LimitsByName
from keypool_asgi.stages.key_selector import KeySelector
from keypool_asgi.stages.lists import Lists
from keypool_asgi.stages.minting import Minting
from keypool_asgi.stages.ownership import Ownership
from keypool_asgi.stages.quota import Quota
from keypool_asgi.stages.reconciling import Reconciler, SettledFirst
from keypool_asgi.stages.relay import Relay
from keypool_asgi.stages.settling import JobDesk
from keypool_asgi.stores.failover_quotas import OnStoreFailure, with_failover
from keypool_asgi.stores.ledger import ledger_store
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.quotas import QuotaCallbacks, quota_store
from keypool_asgi.stores.resources import MemoryResources, ResourceCallbacks, resource_store
from keypool_asgi.stores.state import State, state_at
from keypool_asgi.stores.teams import team_directory
from keypool_asgi.upstream import NativeClient, Timeouts
from keypool_asgi.upstream.sockets import NativeSockets

if TYPE_CHECKING:
    import httpx

    from keypool_asgi.reference import Reference

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stack is made of, as far as it is reached after it has been put together.

    Attributes:
        intercept: the outermost stage.
        gate: counts the exchanges that are going on.
        relay: serves WebSocket sessions.
        provider: the upstream API.
        pool: the keys.
        resources: who owns what.
        asker: asks upstream by itself.
        books: writes the account.
        accounting: makes the records of it.
        reconciler: settles jobs that nobody polls; None when that is off.
        client: HTTP connections to upstream.
        sockets: WebSocket connections to upstream.
        state: what is shared with other processes; None for this process's memory.
        drain_seconds: how long exchanges may take to end at shutdown.
    """

    intercept: Intercept
    gate: Gate
    relay: Relay
    provider: Provider
    pool: Pool
    resources: ResourceStore
    asker: Asker
    books: Bookkeeper
    accounting: Accounting
    reconciler: Reconciler | None
    client: UpstreamClient
    sockets: NativeSockets
    state: State | None
    drain_seconds: float


def assemble(
    host: ASGIApp | None,
    *,
    keys: Keys,
    teams: Teams,
    quotas: QuotaStore | QuotaCallbacks | None = None,
    on_store_failure: OnStoreFailure = "refuse",
    quota_share: float | None = None,
    prices: PriceTable | None = None,
    estimates: Estimates | None = None,
    key_limits: LimitsByName | None = None,
    account_limits: LimitsByName | None = None,
    job_seconds: float = 7 * 86400.0,
    session_window_seconds: int = 30,
    rate_limit_fields: bool = True,
    resources: ResourceStore | ResourceCallbacks | None = None,
    state: str | None = None,
    ledger: Ledger | None = None,
    on_usage: OnUsage | None = None,
    reconcile_seconds: float | None = 60.0,
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
) -> Parts:
    """Make the parts of a stack around ``host``, or of one that stands alone. ``Settings`` tells of the settings.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """
    _check_amounts(
        retries=retries,
        peek_bytes=peek_bytes,
        max_body_bytes=max_body_bytes,
        discard_bytes=discard_bytes,
        drain_seconds=drain_seconds,
        key_wait_seconds=key_wait_seconds,
        reconcile_seconds=reconcile_seconds or 0,
    )
    _check_durations(
        keys_ttl_seconds=keys_ttl_seconds,
        teams_ttl_seconds=teams_ttl_seconds,
        unknown_teams_ttl_seconds=unknown_teams_ttl_seconds,
    )
    _check_texts(prefix, public_url, via)
    _check_word("isolation", isolation, "team", "off")
    _check_word("socket_refusals", socket_refusals, "auto", "http", "in_band")
    issuer = _issuer(streaming_tokens, streaming_token_secret)
    timeouts, sessions = timeouts or Timeouts(), sessions or SessionLimits()

    # What is shared, with other processes and by the stages.
    provider = ASSEMBLYAI.with_origins(origins)
    shared_state = None if state is None else state_at(state)
    owners = shared_state.resources if resources is None and shared_state is not None else resource_store(resources)
    counted = shared_state.quotas if quotas is None and shared_state is not None else quota_store(quotas)
    account = shared_state.ledger if ledger is None and shared_state is not None else ledger_store(ledger)
    counted = with_failover(counted, on_store_failure, quota_share)
    pool = Pool(
        keys,
        check=provider.check_key,
        policy=health,
        wait_seconds=key_wait_seconds,
        ttl_seconds=keys_ttl_seconds,
        select=select,
        board=None if shared_state is None else shared_state.board,
    )
    leasing = _limited(pool, counted, key_limits, account_limits)
    client = _client(transport, timeouts, ssl_context, max_connections)
    sockets = NativeSockets(timeouts=timeouts, limits=sessions, ssl_context=ssl_context)
    announced = via.encode("ascii") if via else None
    asker = Asker(pool=leasing, client=client, provider=provider, via=announced)
    directory = team_directory(
        teams, pepper=pepper, ttl_seconds=teams_ttl_seconds, negative_ttl_seconds=unknown_teams_ttl_seconds
    )

    tariff = Tariff(provider.metering, prices=Prices(prices or {}), estimates=estimates)
    books = Bookkeeper(account, on_usage=on_usage)
    desk = JobDesk(provider=provider, tariff=tariff, asker=asker, books=books, quotas=counted)
    reconciler = _reconciler(desk, owners, provider, reconcile_seconds)

    # The stages, the last one first.
    off = isolation == "off"
    longest = _longest_session(provider.minting, sessions)
    relay = Relay(_nothing_here, sockets=sockets, provider=provider, limits=sessions, via=via)
    app: ASGIApp = Forwarder(relay, client=client, provider=provider, via=via, max_body_bytes=max_body_bytes)
    app = KeySelector(app, pool=leasing, provider=provider, peek_bytes=peek_bytes, retries=retries)
    listed = owners if reconciler is None else SettledFirst(owners, reconciler)
    app = Lists(app, resources=listed, provider=provider, asker=asker, shared=off)
    app = Ownership(
        app,
        resources=owners,
        rules=provider.resources,
        minting=provider.minting if issuer is None else None,
        asker=asker if off else None,
        forgets=isinstance(owners, MemoryResources),
    )
    minting = Minting(app, rules=provider.minting, max_session_seconds=longest, issuer=issuer)
    quota = Quota(
        minting,
        quotas=counted,
        tariff=tariff,
        job_seconds=job_seconds,
        window_seconds=session_window_seconds,
        rate_limit_fields=rate_limit_fields,
        max_token_seconds=longest if issuer is None else None,
        shared=off,
    )
    if issuer is not None:
        # Ours are paid for when they are used; AssemblyAI's when they are made, which also shortens them.
        minting.allowance = partial(_seconds_left, quota, provider.table.named("streaming.session"))
    accounting = Accounting(
        quota,
        books=books,
        desk=desk,
        tariff=tariff,
        resources=owners,
        shared=off,
        on_use=None if reconciler is None else reconciler.start,
    )
    app = Auth(
        accounting,
        teams=directory,
        resources=owners,
        rules=provider.resources,
        issuer=issuer,
        allowed_origins=allowed_origins,
    )
    gate = Gate(app)
    intercept = Intercept(
        gate,
        table=provider.table,
        host=host,
        prefix=prefix,
        public_url=public_url,
        max_body_bytes=max_body_bytes,
        discard_bytes=discard_bytes,
        socket_refusals=socket_refusals,
        beside=_reference(provider.table, public_url) if reference else None,
        on_exchange=on_exchange,
    )
    return Parts(
        intercept=intercept,
        gate=gate,
        relay=relay,
        provider=provider,
        pool=pool,
        resources=owners,
        asker=asker,
        books=books,
        accounting=accounting,
        reconciler=reconciler,
        client=client,
        sockets=sockets,
        state=shared_state,
        drain_seconds=drain_seconds,
    )


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Stand behind the last stage, which passes nothing on."""
    raise MissingStage(f"no stage serves a scope of type {scope['type']!r}")


def _reconciler(
    desk: JobDesk, resources: ResourceStore, provider: Provider, seconds: float | None
) -> Reconciler | None:
    return Reconciler(desk=desk, resources=resources, provider=provider, every_seconds=seconds) if seconds else None


def _limited(pool: Pool, quotas: QuotaKeeper, keys: LimitsByName | None, accounts: LimitsByName | None) -> LeasingPool:
    return LimitedPool(pool, quotas=quotas, keys=keys, accounts=accounts) if keys or accounts else pool


def _seconds_left(quota: Quota, session: Operation, team: Team) -> Awaitable[float | None]:
    return quota.remaining(team, session, "stream_seconds")


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


def _reference(table: OperationTable, public_url: str | None) -> Reference:
    from keypool_asgi.reference import Reference

    return Reference(_nothing_here, table=table, public_url=public_url)


def _issuer(streaming_tokens: str, secret: str | bytes | Sequence[str | bytes] | None) -> TokenIssuer | None:
    _check_word("streaming_tokens", streaming_tokens, "assemblyai", "keypool")
    if streaming_tokens == "assemblyai":
        if secret is not None:
            raise ConfigurationError("streaming_token_secret is for streaming_tokens='keypool' only")
        return None
    if secret is None:
        raise ConfigurationError("streaming_tokens='keypool' needs streaming_token_secret, the same in every process")
    return TokenIssuer(secret)


def _longest_session(rules: MintRules, limits: SessionLimits) -> int:
    """How long sessions of a temporary token may last: as long as others, as far as a token can be made for that."""
    least, most = rules.sessions
    return max(least, min(most, int(limits.session_seconds)))


def _check_amounts(**settings: float) -> None:
    for name, value in settings.items():
        if not value >= 0:
            raise ConfigurationError(f"{name} must not be negative, not {value!r}")


def _check_durations(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise ConfigurationError(f"{name} must be greater than 0, not {value!r}")


def _check_word(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        words = ", ".join(map(repr, allowed[:-1]))
        raise ConfigurationError(f"{name} must be {words} or {allowed[-1]!r}, not {value!r}")


def _check_texts(prefix: str, public_url: str | None, via: str | None) -> None:
    if not prefix.startswith("/") or prefix.endswith("/") or not prefix.isascii():
        raise ConfigurationError(f"prefix must start with a slash and not end with one, not {prefix!r}")
    if public_url is not None and not public_url.startswith(("http://", "https://")):
        raise ConfigurationError(f"public_url must be an absolute http or https URL, not {public_url!r}")
    if via is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", via):
        raise ConfigurationError(f"via must be a name of letters, digits, dots and dashes, not {via!r}")
