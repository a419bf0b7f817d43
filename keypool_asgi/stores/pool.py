"""The pool of keys of one process: leases, verdicts, and waiting for a key.

Every decision (which key, whose turn, what a verdict changes) is made without an await between looking and writing,
so no lock is needed. The only awaits are for the key list and for one's turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from keypool_asgi.core.health import HealthPolicy, blame, judge, take
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.selection import Need, Select, Unavailable, choose
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError, NoAvailableKeys, StoreUnavailable
from keypool_asgi.ports import Lease
from keypool_asgi.stores.health_sharing import SHARE_SECONDS, HealthBoard, HealthSharing
from keypool_asgi.stores.keys import KeyList, key_source
from keypool_asgi.stores.roster import KeyLease, KeySnapshot, Roster, Seat

__all__ = ["Pool"]

logger = logging.getLogger("keypool_asgi.pool")

_SHORTEST_WAIT_SECONDS = 0.001
_UNRELATED = Verdict(Fault.UNRELATED)


class Pool:
    """A pool of keys for one process; a ``LeasingPool``.

    Args:
        source: the keys, in any form that ``key_source`` takes.
        check: raises ConfigurationError for a key that cannot be used.
        policy: how keys and accounts go down and come back.
        wait_seconds: longest time that a request waits for a key, first come first served. 0 is not to wait.
        ttl_seconds: age at which the key list is loaded again, in the background. A fixed list never is.
        stale_seconds: age up to which the last list is used while the source fails, at least ``ttl_seconds``.
        load_seconds: longest time that one load of the list may take.
        clock: seconds, monotonic.
        random: breaks ties and spreads backoff.
        select: the operator's own choice of key.
        board: where processes tell each other what they find out about keys. None: this one keeps it to itself.
        share_seconds: how often this process tells and hears, at least.

    Raises:
        ConfigurationError: a setting is out of its range, or the source is not one.
    """

    def __init__(
        self,
        source: object,
        *,
        check: Callable[[UpstreamKey], None] | None = None,
        policy: HealthPolicy | None = None,
        wait_seconds: float = 1.0,
        ttl_seconds: float = 60.0,
        stale_seconds: float = 3600.0,
        load_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        select: Select | None = None,
        board: HealthBoard | None = None,
        share_seconds: float = SHARE_SECONDS,
    ) -> None:
        if not wait_seconds >= 0:
            raise ConfigurationError(f"wait_seconds must not be negative: {wait_seconds!r}")
        self._policy = policy or HealthPolicy()
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - it balances load, it guards nothing
        self._select = select
        self._roster = Roster(self._policy)
        self._waiters: dict[asyncio.Future[KeyLease], Need] = {}
        self._wanted: Counter[Need] = Counter()
        self._in_flight = 0
        self._sharing = None if board is None else self._sharing_by(board, share_seconds)
        self._list = KeyList(
            key_source(source, check),
            self._install,
            ttl_seconds=ttl_seconds,
            stale_seconds=stale_seconds,
            load_seconds=load_seconds,
            clock=clock,
        )

    async def lease(self, need: Need) -> KeyLease:
        """Check out the best key for ``need``, waiting a bounded time for one that is busy or about to open.

        Raises:
            NoAvailableKeys: no key can serve; ``retry_after`` is when the first one can.
            StoreUnavailable: the keys could not be loaded.
        """
        now = self._clock()
        if now >= self._list.due:
            await self._list.ensure()
            now = self._clock()
        if self._sharing is not None:
            self._sharing.ensure()
        if self._waiters:
            self._serve_waiters()
        found = self._find(need, now)
        if isinstance(found, Seat):
            return self._take(found, now)
        if self._worth_waiting(found):
            return await self._wait(need, found)
        raise self._refusal(found)

    async def give_back(self, lease: Lease, verdict: Verdict) -> None:
        """Take a key back. Repeating it changes nothing."""
        self._return(_own(lease), verdict)

    def judge(self, lease: Lease, verdict: Verdict) -> None:
        """Say what an attempt tells about its key before its lease comes back, or after.

        A stream proves its key with its first message, hours before it ends; a bare 403 is believed only when another
        account has served. A success counts once for each lease, however often it is told.
        """
        self._judge(_own(lease), verdict)
        self._serve_waiters()

    async def refresh(self) -> None:
        """Load the key list now.

        Raises:
            ConfigurationError: the source returned something that is not a list of keys.
            StoreUnavailable: the source failed.
        """
        if self._sharing is not None:
            self._sharing.ensure()
        await self._list.refresh()

    async def aclose(self) -> None:
        """Stop loading the key list and sharing health. Leases that are out can still be given back."""
        await self._list.aclose()
        if self._sharing is not None:
            await self._sharing.aclose()

    @property
    def in_flight(self) -> int:
        """Leases that are out, over all keys."""
        return self._in_flight

    def projects(self) -> tuple[str, ...]:
        """The projects of the keys that are listed now, each once, in the order of the list."""
        return tuple(dict.fromkeys(key.project for key in self.snapshot() if key.listed))

    def snapshot(self) -> tuple[KeySnapshot, ...]:
        """Every key as it stands now, in the order of the list; removed ones that still have leases at the end."""
        return self._roster.snapshot(self._clock())

    def _sharing_by(self, board: HealthBoard, share_seconds: float) -> HealthSharing:
        return HealthSharing(
            board,
            self._roster,
            self._serve_waiters,
            policy=self._policy,
            clock=self._clock,
            random=self._random,
            share_seconds=share_seconds,
        )

    def _find(self, need: Need, now: float) -> Seat | Unavailable:
        try:
            return choose(self._roster.seats(need.service, now), need, now, self._random, self._select)
        except Exception as error:
            if self._select is None:
                raise
            logger.exception("select failed")
            raise StoreUnavailable("The service cannot choose a key now. Try again later.") from error

    def _take(self, seat: Seat, now: float) -> KeyLease:
        self._in_flight += 1
        seat.slot.in_flight += 1
        counted = not seat.sound
        if counted:
            self._count(seat, now)
        return KeyLease(seat, counted=counted)

    def _count(self, seat: Seat, now: float) -> None:
        for subject in seat.subjects:
            health = take(subject.health, now, self._policy)
            if health is not subject.health:
                subject.become(health, now)
            subject.in_flight += 1

    def _return(self, lease: KeyLease, verdict: Verdict) -> None:
        if not lease.is_out:
            return
        lease.is_out = False
        self._judge(lease, verdict)
        slot = lease.seat.slot
        self._in_flight -= 1
        slot.in_flight -= 1
        if lease.counted:
            _uncount(lease)
        if not slot.listed and not slot.in_flight:
            self._roster.forget(slot)
        if self._waiters:
            self._serve_waiters()

    def _judge(self, lease: KeyLease, verdict: Verdict) -> None:
        if not (lease.counted or verdict.blames_key):
            return
        if verdict.fault is Fault.NONE:
            if lease.proved:
                return
            lease.proved = True
        now, jitter = self._clock(), self._random.random()
        for subject, taken in zip(lease.seat.subjects, lease.taken, strict=True):
            health = judge(
                subject.health,
                taken,
                blame(subject.scope, verdict),
                now=now,
                policy=self._policy,
                retry_after=verdict.retry_after,
                jitter=jitter,
            )
            if health is not subject.health:
                is_news = health.epoch != subject.health.epoch
                subject.become(health, now)
                if is_news and self._sharing is not None:
                    self._sharing.tell(subject)

    def _worth_waiting(self, why: Unavailable) -> bool:
        if not self._wait_seconds:
            return False
        return why.busy or (why.wait is not None and why.wait <= self._wait_seconds)

    async def _wait(self, need: Need, why: Unavailable) -> KeyLease:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_seconds
        turn: asyncio.Future[KeyLease] = loop.create_future()
        self._waiters[turn] = need
        self._wanted[need] += 1
        try:
            while loop.time() < deadline:
                await asyncio.wait([turn], timeout=_pause(why, deadline - loop.time()))
                self._serve_waiters()
                if turn.done():
                    return turn.result()
                why = self._why_not(need) or why
            raise self._refusal(why)
        except asyncio.CancelledError:
            if turn.done() and turn.exception() is None:
                # The key came together with the cancellation: the next in line gets it.
                self._return(turn.result(), _UNRELATED)
            raise
        finally:
            self._waiters.pop(turn, None)
            self._wanted -= Counter((need,))

    def _why_not(self, need: Need) -> Unavailable | None:
        found = self._find(need, self._clock())
        return found if isinstance(found, Unavailable) else None

    def _serve_waiters(self) -> None:
        """Hand out what is free, in the order of arrival. What found nothing for one waiter is not looked up again."""
        if not self._waiters:
            return
        hopeless: set[Need] = set()
        now = self._clock()
        for turn, need in list(self._waiters.items()):
            if need not in hopeless and not self._serve(turn, need, now):
                hopeless.add(need)
                if len(hopeless) == len(self._wanted):
                    # Usually there is one need, and this is where a long queue ends.
                    return

    def _serve(self, turn: asyncio.Future[KeyLease], need: Need, now: float) -> bool:
        """Hand a waiter its key, or tell it that there is nothing left to wait for. False: it has to wait on."""
        try:
            found = self._find(need, now)
        except Exception as error:  # noqa: BLE001 - an operator's select may raise: it is this waiter's error
            turn.set_exception(error)
        else:
            if isinstance(found, Seat):
                turn.set_result(self._take(found, now))
            elif self._worth_waiting(found):
                return False
            else:
                turn.set_exception(self._refusal(found))
        del self._waiters[turn]
        return True

    def _install(self, keys: tuple[UpstreamKey, ...]) -> None:
        self._roster.install(keys)
        self._serve_waiters()

    def _refusal(self, why: Unavailable) -> NoAvailableKeys:
        """The sentence for the caller. It tells nothing about ids, accounts or funds."""
        if not self._roster:
            return NoAvailableKeys("The pool has no keys: its operator must add one.")
        if not why.fits:
            return NoAvailableKeys("The pool has no key for this region and project: its operator must add one.")
        if why.retry_after is None:
            return NoAvailableKeys("Every key that could serve this request is busy; try again later.")
        return NoAvailableKeys("No key can serve this request now; try again later.", retry_after=why.retry_after)


def _own(lease: Lease) -> KeyLease:
    if not isinstance(lease, KeyLease):
        raise TypeError(f"a lease of this pool is needed, not {type(lease).__name__}")
    return lease


def _uncount(lease: KeyLease) -> None:
    for subject, taken in zip(lease.seat.subjects, lease.taken, strict=True):
        if taken.epoch == subject.health.epoch:
            subject.in_flight -= 1


def _pause(why: Unavailable, left: float) -> float:
    return max(_SHORTEST_WAIT_SECONDS, left if why.wait is None else min(why.wait, left))
