"""Ports: what the stack needs of the world, as Protocols. An object with these methods can stand in for ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.limits import Charge, Denial
from keypool_asgi.core.messages import RequestHead, ResponseHead
from keypool_asgi.core.reservations import Levels
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.core.selection import Need
from keypool_asgi.core.sessions import Close
from keypool_asgi.core.teams import Team
from keypool_asgi.core.usage import Place, Selection, UsageRecord, UsageSum
from keypool_asgi.core.verdicts import Verdict

__all__ = [
    "KeySource",
    "Lease",
    "LeasingPool",
    "Ledger",
    "QuotaKeeper",
    "QuotaStore",
    "ResourceStore",
    "TeamDirectory",
    "UpstreamCall",
    "UpstreamClient",
    "UpstreamSocket",
    "UpstreamSockets",
]


@runtime_checkable
class TeamDirectory(Protocol):
    """Knows which team a token stands for."""

    async def find(self, token: str) -> Team | None:
        """Return the team of a token, or None when the token is unknown.

        Raises:
            StoreUnavailable: nobody can say now.
        """


@runtime_checkable
class KeySource(Protocol):
    """Knows the keys of the pool."""

    async def load(self) -> Iterable[UpstreamKey]:
        """Return every key, now. Called again when the last answer is older than its time to live."""


class Lease(Protocol):
    """A key that is checked out for one attempt."""

    @property
    def key(self) -> UpstreamKey:
        """The key."""


class LeasingPool(Protocol):
    """Checks keys out and takes them back with a verdict."""

    async def lease(self, need: Need) -> Lease:
        """Check out the best key for ``need``, waiting a bounded time for one that is busy.

        Raises:
            NoAvailableKeys: no key can serve; ``retry_after`` is when the first one can.
            StoreUnavailable: the keys could not be loaded.
        """

    async def give_back(self, lease: Lease, verdict: Verdict) -> None:
        """Take a key back. Repeating it changes nothing."""

    def judge(self, lease: Lease, verdict: Verdict) -> None:
        """Say what an attempt tells about its key before it comes back: a session proves it hours before it ends."""

    def projects(self) -> Sequence[str]:
        """The projects of the keys that are listed now, each once, in the order of the list."""


@runtime_checkable
class QuotaStore(Protocol):
    """Holds, settles and releases quota. Every verb is atomic, and idempotent by its permit id.

    A permit that is neither renewed nor ended expires by itself, after the store's time to live: what it occupied
    (``concurrency``, ``streams``) comes back, what it used up per window stays as it was reserved. A permit that is
    over, whatever ended it, cannot be renewed, renamed, settled or released again: that changes nothing. So each
    permit is charged once, however often and however late it is settled, as long as it was still held the first time.

    ``core.reservations`` says how every limit counts, to the unit, and ``testing.contracts.QuotaStoreContract`` checks
    it. A verb that cannot be carried out raises ``StoreUnavailable``; then the request is refused (I9).
    """

    async def reserve(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        """Hold every charge, or none of them. While the permit is held, repeating it changes nothing.

        Returns:
            None when all of them are held, or the denial of the limit that frees last.

        Raises:
            StoreUnavailable: the store cannot say.
        """

    async def renew(self, permit_id: str) -> bool:
        """Prolong the life of a permit that is still held. Returns False when it is not held any more."""

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """End a permit by what was really used, by unit. Units that are not named count as they were reserved.

        More than was reserved is charged, beyond the limit if need be.
        """

    async def release(self, permit_id: str) -> None:
        """End a permit as if it had never been: nothing was used."""


@runtime_checkable
class QuotaKeeper(QuotaStore, Protocol):
    """A quota store with what jobs and forecasts need besides. ``stores.quotas.quota_store`` makes one of any store."""

    async def rename(self, permit_id: str, new_id: str, ttl_seconds: float) -> bool:
        """Let a permit live on under another id, for ``ttl_seconds`` from now. It is then not to be renewed.

        So what a job may cost is reserved before the job has an id, and settled under that id when its figure is
        known: days later, by any process, once.

        Returns:
            False when ``permit_id`` is not held any more, or ``new_id`` is held already. Nothing changes then.
        """

    async def levels(self, charges: Sequence[Charge]) -> Levels:
        """Return how the limits of these charges stand, by slot; one that is unused may be left out.

        Advisory: another process may use it up before the answer is read. The charges' amounts do not matter.
        """

    def seen(self, charges: Sequence[Charge]) -> Levels:
        """Return the same as far as this process knows it from its own last verbs, without asking anybody.

        For response fields. One that is not known is left out.
        """


@runtime_checkable
class ResourceStore(Protocol):
    """Remembers who owns which upstream object. Every verb is atomic.

    A verb that cannot be carried out raises ``StoreUnavailable``; then the request is refused (I9).
    """

    async def record(self, resource: Resource) -> None:
        """Remember a resource. One that is known already keeps its owners, place and status: the first word stands."""

    async def find(self, ref: Ref) -> Resource | None:
        """Return a resource, or None when it is unknown, forgotten or over its retention."""

    async def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down a job's status and summary. Does nothing when the resource is unknown."""

    async def forget(self, ref: Ref) -> None:
        """Forget a resource that is deleted upstream. Its place is kept for ``CURSOR_SECONDS``."""

    async def place(self, ref: Ref, team: str | None) -> tuple[float, str] | None:
        """Return the place in lists of a team's resource (None: anybody's), a forgotten one's too; None if unknown."""

    async def page(self, page: Page) -> Sequence[Resource]:
        """Return a part of a list, newest first. Its cost depends on the part, not on what other teams own."""


@runtime_checkable
class Ledger(Protocol):
    """Keeps usage records and adds them up. What is in it is never changed.

    Records may go after a time, or beyond a number; sums stay longer. A verb that cannot be carried out raises
    ``StoreUnavailable``. ``testing.ledger_contract.LedgerContract`` checks an implementation.
    """

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records. One whose id is known already changes nothing; a correction's is known for 100 days at least.

        Each record is kept whole, in the sums too, or not at all. After a failure the same records may be given again.

        Returns:
            Those that are in the ledger as they were given, in their order: without those of which another one of the
            same id had come before.
        """

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none (any more)."""

    async def knows(self, record_id: str) -> bool:
        """Whether a record of this id has been kept; of a correction, also when the record itself is gone."""

    async def page(self, selection: Selection, limit: int, before: Place | None = None) -> Sequence[UsageRecord]:
        """Return the newest records of a selection, the newest first, at most ``limit``.

        Args:
            selection: which.
            limit: how many at most.
            before: only those that stand before this place: where the page before ended.
        """

    async def sums(self, selection: Selection, by: Sequence[str] = ()) -> Sequence[UsageSum]:
        """Return what was used in all, by these of ``DIMENSIONS``; in the order of the groups, without empty ones.

        Raises:
            ConfigurationError: a bound of the selection is not a whole hour, or there is no such dimension.
        """

    async def claim(self, duty: str, holder: str, seconds: float) -> bool:
        """Take on a duty that only one of those who share the ledger shall do, or keep it, for so many seconds.

        Returns:
            Whether it is the holder's. Nobody gives it back; it is free when the time is over.
        """


class UpstreamCall(Protocol):
    """One HTTP request on its way to upstream. Request and response sides may run at the same time."""

    async def write(self, data: bytes) -> None:
        """Send a piece of the request body; returns when upstream's side has room for more.

        Raises:
            UpstreamError: the connection failed, or made no progress within the write timeout.
        """

    async def finish(self) -> None:
        """Say that the request body is complete. Until this is called upstream never sees a complete request (I7)."""

    async def head(self) -> ResponseHead:
        """Wait for the head of the final response; 1xx responses are passed over.

        It may arrive before the request body is complete (an early answer).

        Raises:
            UpstreamError: broken, malformed, or later than ``RequestHead.patience`` seconds after ``finish()``.
        """

    async def read(self) -> tuple[bytes, bool]:
        """Return the next piece of the response body and whether more follows.

        The last piece comes with False, so that a caller can end its own message with it.

        Raises:
            UpstreamError: the response broke off (I7: it must then be broken off downstream too).
        """

    def close(self) -> None:
        """End the call. A connection whose exchange is complete is kept for reuse, any other is cut. Idempotent."""


class UpstreamClient(Protocol):
    """Opens HTTP calls to upstream origins and keeps connections for reuse."""

    async def open(self, head: RequestHead) -> UpstreamCall:
        """Have a connection ready and the request's head on its way.

        Raises:
            ConnectFailed: no connection could be made; nothing of the request left.
        """

    async def aclose(self) -> None:
        """Close every idle connection and cut every open call."""


class UpstreamSocket(Protocol):
    """One WebSocket connection to upstream, open. Whole messages only; pings and pongs are its own affair.

    One task may send while another receives.
    """

    async def send(self, message: str | bytes) -> None:
        """Send one message, text or binary; returns when upstream's side has room for more.

        Raises:
            UpstreamError: the connection is closed or broken, or took nothing within the write timeout.
        """

    async def receive(self) -> str | bytes | Close:
        """Return the next message, or how the connection has ended; from then on always that.

        Never raises: a connection that broke, was silent to pings or violated RFC 6455 ends with ``Close(1006, ...)``,
        whose reason says which; a message over the limit with ``Close(1009, ...)``.
        """

    async def close(self, close: Close) -> None:
        """Send a close frame and wait, for a bounded time, for the peer's; then end the connection. Idempotent.

        A code that must not be on the wire (1005, 1006, 1015) sends a close frame without one.
        """

    def abort(self) -> None:
        """End the connection at once, without a close frame. Idempotent."""


class UpstreamSockets(Protocol):
    """Opens WebSocket connections to upstream."""

    async def open(self, head: RequestHead, *, last_words: str | None = None) -> UpstreamSocket:
        """Connect and upgrade, within ``head.patience`` seconds.

        Args:
            head: a GET; the fields of the handshake itself (RFC 6455, section 4.1) are added here.
            last_words: a message that the socket sends when it ends the connection by itself (upstream broke the
                protocol, sent too long a message, or is silent), as far as anything can be sent then: the product's
                end message, without which upstream would go on charging.

        Raises:
            ConnectFailed: no connection could be made; nothing of the request left.
            UpgradeRefused: upstream answered with an ordinary response.
            UpstreamError: it broke the protocol or was too slow.
        """

    async def aclose(self) -> None:
        """Cut every open connection."""
