"""What an operator can set: the forms that keys and teams come in, and every other setting with its default."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from keypool_asgi.core.charging import Estimates
from keypool_asgi.core.health import HealthPolicy
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.prices import PriceTable
from keypool_asgi.core.provider import OriginOverrides
from keypool_asgi.core.selection import Select
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.core.teams import Team
from keypool_asgi.ports import KeySource, Ledger, QuotaStore, ResourceStore, TeamDirectory
from keypool_asgi.stages.bookkeeping import OnUsage
from keypool_asgi.stages.intercept import OnExchange, SocketRefusals
from keypool_asgi.stages.key_limits import LimitsByName
from keypool_asgi.stores.failover_quotas import OnStoreFailure
from keypool_asgi.stores.quotas import QuotaCallbacks
from keypool_asgi.stores.resources import ResourceCallbacks
from keypool_asgi.upstream import Timeouts

if TYPE_CHECKING:
    import httpx

__all__ = ["Keys", "Settings", "Teams"]

Keys = Iterable[UpstreamKey] | Callable[[], Iterable[UpstreamKey] | Awaitable[Iterable[UpstreamKey]]] | KeySource
"""What ``keys`` takes: a list, a function (sync or async) that returns one, or an object with ``load()``."""

Teams = Mapping[str, Team] | Callable[[str], Team | Awaitable[Team | None] | None] | TeamDirectory
"""What ``teams`` takes: token (or ``TokenDigest``) to team, a function (sync or async) that does so, or an object with
``find()``."""


class Settings(TypedDict, total=False):
    """Every setting beside ``keys`` and ``teams``. All of them have a default."""

    quotas: QuotaStore | QuotaCallbacks | None
    """Who counts the teams' limits. None: this process's memory."""

    on_store_failure: OnStoreFailure
    """What becomes of requests while the quota store cannot be reached: ``"refuse"``, ``"allow"`` or ``"share"``."""

    quota_share: float | None
    """With ``on_store_failure="share"``: the part of each limit that one process may admit meanwhile."""

    prices: PriceTable | None
    """What units cost, for limits of ``cost`` and for the account."""

    estimates: Estimates | None
    """What is held of a unit while its figure is unknown, by operation. None: 1."""

    key_limits: LimitsByName | None
    """The operator's own limits on requests and concurrency of keys, by id or glob."""

    account_limits: LimitsByName | None
    """The same of accounts."""

    job_seconds: float
    """How long a job's figure is waited for, before it counts as it was estimated: 7 days."""

    session_window_seconds: int
    """How much of a session is admitted at once: 30."""

    rate_limit_fields: bool
    """Whether answers tell what is left of the team's limits, in ``RateLimit`` and ``X-RateLimit-*``: yes."""

    resources: ResourceStore | ResourceCallbacks | None
    """Who remembers which team and project own what. None: ``state``, or this process's memory."""

    state: str | None
    """Where owners, limits and (with Redis) the health of keys are shared by several processes, and survive a restart:
    ``"sqlite:///keypool.db"``, ``"redis://host"`` or ``"rediss://host"``."""

    ledger: Ledger | None
    """Who keeps the account of what teams have used. None: ``state``, or this process's memory, where it is bounded."""

    on_usage: OnUsage | None
    """Called with a ``UsageRecord`` after each exchange that reached AssemblyAI, and when a job is settled."""

    reconcile_seconds: float | None
    """How often AssemblyAI is asked about jobs that nobody polls, so that what they use is known: 60. None or 0:
    never."""

    isolation: Literal["team", "off"]
    """``"team"``: a team reaches only what it created. ``"off"``: teams share, and workflows stay on their project."""

    prefix: str
    """The pool's path in the host app, ``"/v1/assemblyai"``."""

    origins: OriginOverrides | None
    """Service name to base URL, overriding AssemblyAI's hosts, for tests and private gateways."""

    transport: httpx.AsyncBaseTransport | None
    """An httpx transport to forward with. None: our own HTTP/1.1 client."""

    pepper: str | bytes | None
    """Secret that the digests of team tokens are made with. None: plain digests."""

    public_url: str | None
    """The pool's absolute URL for links in answers. None: taken from each request."""

    reference: bool
    """Whether to serve the API reference at ``/reference`` and its OpenAPI document at ``/openapi.json``, below the
    prefix and to everybody: no. It needs the extra ``reference``."""

    on_exchange: OnExchange | None
    """Called with an ``ExchangeRecord`` after each exchange."""

    health: HealthPolicy
    """How long keys and accounts stay down, and how they come back."""

    select: Select | None
    """The operator's own choice among the keys that can serve."""

    timeouts: Timeouts
    """How long upstream connections may take, in seconds. With ``transport``, ``idle`` is the transport's affair."""

    sessions: SessionLimits
    """What WebSocket sessions may take, in seconds and bytes."""

    socket_refusals: SocketRefusals
    """How a refused WebSocket upgrade is shown: ``"auto"``, in the form that the caller can see."""

    allowed_origins: Iterable[str] | None
    """Web pages that may open WebSocket sessions, such as ``"https://app.example.com"``. None: any."""

    streaming_tokens: Literal["assemblyai", "keypool"]
    """Whose temporary tokens callers get: ``"assemblyai"``'s open AssemblyAI's endpoint and ours, ``"keypool"``'s ours
    alone, so that no session escapes the team's limits."""

    streaming_token_secret: str | bytes | Sequence[str | bytes] | None
    """What temporary tokens of our own are sealed with; several to rotate, the first seals. The same in all
    processes."""

    ssl_context: ssl.SSLContext | None
    """TLS towards upstream. None: the system's trust. Not used with ``transport``."""

    max_connections: int | None
    """Upstream connections per origin. None: no limit. Not used with ``transport``."""

    key_wait_seconds: float
    """How long a request waits for a key that is busy: 1."""

    keys_ttl_seconds: float
    """How old the key list of a function may become before it is loaded again: 60."""

    teams_ttl_seconds: float
    """How long a function's answer about a token is believed: 60."""

    unknown_teams_ttl_seconds: float
    """How long a function's answer that a token is unknown is believed: 10."""

    retries: int
    """How often a request that could not reach upstream at all is tried again: 1."""

    peek_bytes: int
    """Longest request body that can be sent again on another key: 256 KiB."""

    max_body_bytes: int
    """Longest request body: 5 GiB."""

    discard_bytes: int
    """Of a body that nobody wants, how much is read so that its sender gets to see the refusal: 1 MiB."""

    drain_seconds: float
    """At shutdown, how long exchanges may take to end: 5."""

    via: str | None
    """How requests are announced to upstream in ``Via``: ``"keypool-asgi"``. None: not at all."""
