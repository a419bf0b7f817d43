"""Where quota is kept: in memory, or behind callables and objects that the user gave."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from keypool_asgi.core.limits import Charge, Denial, Slot
from keypool_asgi.core.reservations import Hold, Level, Levels, idle_at, reserve, settle
from keypool_asgi.errors import ConfigurationError, Refusal
from keypool_asgi.ports import QuotaKeeper, QuotaStore

from .callables import as_async, call_store, store_failed
from .resources import BuiltIn

__all__ = ["GuardedQuotas", "MemoryQuotas", "QuotaCallbacks", "check_ttl", "quota_store"]

# Levels that are kept without asking whether they are still used.
_SWEEP_FLOOR = 1024

_VERBS = ("reserve", "renew", "settle", "release")
_FURTHER_VERBS = ("rename", "levels")

T = TypeVar("T")


Permit = tuple[int, dict[Slot, Hold]]
"""When a permit expires, in Unix microseconds, and what it holds."""


class MemoryQuotas(BuiltIn):
    """Quota in this process's memory: exact for one process, and gone with it.

    Every verb runs without an await inside, so that it is atomic among the tasks of one event loop. Subjects are
    forgotten once nothing of their limits is used any more.

    Args:
        clock: returns Unix time in seconds. The default is looked up once and goes on steadily from there, because a
            time of day that is corrected by an hour would shut every team out for as long.
        permit_ttl_seconds: how long a permit lives that is neither renewed nor ended. Its concurrency then comes back,
            what it used per window stays used. Renew well within it, say every third of it.

    Raises:
        ConfigurationError: ``permit_ttl_seconds`` is not above 0.
    """

    def __init__(self, *, clock: Callable[[], float] | None = None, permit_ttl_seconds: float = 120) -> None:
        check_ttl(permit_ttl_seconds)
        self.permit_ttl_seconds = permit_ttl_seconds
        self._clock = clock or _steady_clock()
        self._ttl = int(permit_ttl_seconds * 1e6)
        self._levels: dict[Slot, Level] = {}
        # Permits by their time to live. Each of the dicts is in order of expiry, because all that is in it lives
        # equally long and a renewed permit moves to the end.
        self._permits: dict[str, Permit] = {}
        self._lives: dict[int, dict[str, Permit]] = {self._ttl: self._permits}
        self._next_expiry = 0
        self._sweep_at = _SWEEP_FLOOR

    def __repr__(self) -> str:
        permits = sum(len(lives) for lives in self._lives.values())
        return f"<MemoryQuotas: {permits} permits, {len(self._levels)} levels>"

    async def reserve(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        """Hold every charge or none of them. Repeating it while the permit is held changes nothing."""
        now = self._now()
        if permit_id in self._permits or (len(self._lives) > 1 and self._is_held(permit_id)):
            return None
        outcome = reserve(self._levels, charges, now)
        if isinstance(outcome, Denial):
            return outcome
        changed, holds = outcome
        self._permits[permit_id] = (now + self._ttl, holds)
        self._levels.update(changed)
        if len(self._levels) >= self._sweep_at:
            self._sweep(now)
        return None

    async def renew(self, permit_id: str) -> bool:
        """Let a permit live for ``permit_ttl_seconds`` from now; False when it is not held any more."""
        return self._move(permit_id, permit_id, self._ttl)

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """End a permit by what was used, by unit; a unit that is not named counts as it was reserved."""
        now = self._now()
        permit = self._permits.pop(permit_id, None) or self._pop(permit_id)
        if permit is not None:
            self._end(permit[1], used, now)

    async def release(self, permit_id: str) -> None:
        """End a permit as if nothing had been used (see ``core.reservations`` for how exactly)."""
        now = self._now()
        permit = self._pop(permit_id)
        if permit is not None:
            self._end(permit[1], None, now)

    async def rename(self, permit_id: str, new_id: str, ttl_seconds: float) -> bool:
        """Let a permit live on under another id, for ``ttl_seconds`` from now; False when that cannot be."""
        return self._move(permit_id, new_id, int(ttl_seconds * 1e6))

    async def levels(self, charges: Sequence[Charge]) -> Levels:
        """Return how the limits of these charges stand; one that is unused is left out."""
        self._now()
        return self.seen(charges)

    def seen(self, charges: Sequence[Charge]) -> Levels:
        """Return the same, as it was when the last permit began or ended."""
        levels = self._levels
        return {slot: level for charge in charges if (level := levels.get(slot := charge.slot)) is not None}

    def _now(self) -> int:
        """Microseconds now, once everything that has expired by now is gone."""
        now = int(self._clock() * 1e6)
        if now >= self._next_expiry:
            self._expire(now)
        return now

    def _is_held(self, permit_id: str) -> bool:
        return any(permit_id in permits for permits in self._lives.values())

    def _pop(self, permit_id: str) -> Permit | None:
        for permits in self._lives.values():
            permit = permits.pop(permit_id, None)
            if permit is not None:
                return permit
        return None

    def _move(self, permit_id: str, new_id: str, ttl: int) -> bool:
        now = self._now()
        if new_id != permit_id and self._is_held(new_id):
            return False
        permit = self._pop(permit_id)
        if permit is None:
            return False
        self._lives.setdefault(ttl, {})[new_id] = (now + ttl, permit[1])
        self._next_expiry = min(self._next_expiry, now + ttl)
        return True

    def _end(self, holds: dict[Slot, Hold], used: Mapping[str, int] | None, now: int) -> None:
        levels = self._levels
        for slot, hold in holds.items():
            spent = 0 if used is None else used.get(hold[0].unit, hold[1])
            levels[slot] = settle(levels.get(slot), hold, spent, now)

    def _expire(self, now: int) -> None:
        expired = []
        self._next_expiry = now + self._ttl
        for permits in self._lives.values():
            for permit_id, permit in permits.items():
                if permit[0] > now:
                    self._next_expiry = min(self._next_expiry, permit[0])
                    break
                expired.append((permits, permit_id))
        for permits, permit_id in expired:
            self._end(permits.pop(permit_id)[1], {}, now)

    def _sweep(self, now: int) -> None:
        """Forget every unused level. Runs each time their number has doubled, so its cost is spread evenly."""
        self._levels = {slot: level for slot, level in self._levels.items() if idle_at(level) > now}
        self._sweep_at = max(_SWEEP_FLOOR, 2 * len(self._levels))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaCallbacks:
    """Functions that stand for a quota store; each is sync (run in a thread) or async.

    A verb that is left out does nothing, which is enough for a store that only counts, or whose holds end by
    themselves. A store that holds concurrency needs ``settle`` and ``release``. ``ports.QuotaStore`` says what each
    verb must do; a ``Refusal`` that one raises reaches the caller as it is.

    Args:
        reserve: ``(permit_id, charges) -> Denial | None``.
        settle: ``(permit_id, used_by_unit) -> None``.
        release: ``(permit_id) -> None``. Also called when ``reserve`` failed or was abandoned, because nobody knows
            then what it has held.
        renew: ``(permit_id) -> bool``, whether the permit was still held.
        rename: ``(permit_id, new_id, ttl_seconds) -> bool``, whether that could be done. Without it what a job may
            cost is settled as it was reserved, and never corrected.
        levels: ``(charges) -> levels``. Without it nobody is told how much is left.

    Raises:
        ConfigurationError: a value is not callable.
    """

    reserve: Callable[[str, Sequence[Charge]], Denial | Awaitable[Denial | None] | None]
    settle: Callable[[str, Mapping[str, int]], Awaitable[None] | None] | None = None
    release: Callable[[str], Awaitable[None] | None] | None = None
    renew: Callable[[str], bool | Awaitable[bool]] | None = None
    rename: Callable[[str, str, float], bool | Awaitable[bool]] | None = None
    levels: Callable[[Sequence[Charge]], Levels | Awaitable[Levels]] | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            given = getattr(self, name)
            if not callable(given) and (given is not None or name == "reserve"):
                raise ConfigurationError(f"quotas: {name} must be callable, not {type(given).__name__}")


class GuardedQuotas(BuiltIn):
    """The store behind a user's callables: what they raise becomes ``StoreUnavailable``, and no hold is lost by it.

    - A ``reserve`` that fails is followed by a ``release``.
    - A ``reserve`` whose caller is cancelled runs on to its end, and what it then holds is released.
    - ``settle`` and ``release`` run to their end even if the caller is cancelled, and are tried twice: a hold whose
      end is lost lasts until it expires.
    """

    def __init__(self, verbs: QuotaCallbacks) -> None:
        self._reserve = as_async(verbs.reserve)
        self._settle = as_async(verbs.settle or _nothing)
        self._release = as_async(verbs.release or _nothing)
        self._renew = as_async(verbs.renew or _still_held)
        self._rename = as_async(verbs.rename) if verbs.rename is not None else None
        self._levels = as_async(verbs.levels or _unknown)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def reserve(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        """Hold every charge or none of them."""
        attempt = self._keep(self._attempt(permit_id, charges))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._keep(self._abandon(attempt, permit_id))
            raise

    async def renew(self, permit_id: str) -> bool:
        """Prolong the life of a permit; False when it is not held any more."""
        return bool(await call_store("quotas", "renew", self._renew, permit_id))

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """End a permit by what was used, by unit."""
        await asyncio.shield(self._keep(self._end("settle", self._settle, permit_id, used)))

    async def release(self, permit_id: str) -> None:
        """End a permit as if it had never been."""
        await asyncio.shield(self._keep(self._end("release", self._release, permit_id)))

    async def rename(self, permit_id: str, new_id: str, ttl_seconds: float) -> bool:
        """Let a permit live on under another id; one that cannot be renamed is settled as it was reserved."""
        if self._rename is None:
            await self.settle(permit_id, {})
            return False
        work = call_store("quotas", "rename", self._rename, permit_id, new_id, ttl_seconds)
        return bool(await asyncio.shield(self._keep(work)))

    async def levels(self, charges: Sequence[Charge]) -> Levels:
        """Return how the limits of these charges stand, as far as the user's function says."""
        return await call_store("quotas", "levels", self._levels, charges)

    def seen(self, _charges: Sequence[Charge]) -> Levels:
        """Return nothing: what is not asked is not known."""
        return {}

    async def _attempt(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        try:
            outcome = await call_store("quotas", "reserve", self._reserve, permit_id, charges)
            if outcome is not None and not isinstance(outcome, Denial):
                raise store_failed(
                    "quotas", "reserve", TypeError(f"it returned {type(outcome).__name__}, not a Denial")
                )
        except Refusal:
            with suppress(Exception):  # the failure of reserve is the one to report
                await self._release(permit_id)
            raise
        return outcome

    async def _abandon(self, attempt: asyncio.Task[Denial | None], permit_id: str) -> None:
        """Wait for an attempt that nobody waits for any more, and release what it holds."""
        with suppress(Refusal):  # logged, and released by the attempt itself
            if await attempt is None:
                await self.release(permit_id)

    async def _end(self, name: str, verb: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await verb(*args)
        except Exception:  # noqa: BLE001 - reported if it happens again
            await call_store("quotas", name, verb, *args)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run as a task of its own, kept here because the event loop holds tasks by weak references only."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: it is logged already, and its caller may be gone


def quota_store(value: QuotaStore | QuotaCallbacks | None = None) -> QuotaKeeper:
    """Return the store that a ``quotas`` setting stands for.

    Args:
        value: None for memory, ``QuotaCallbacks``, or an object with the methods of ``QuotaStore``, sync or async;
            those of ``QuotaKeeper`` are used too where it has them.

    Raises:
        ConfigurationError: it is none of these.
    """
    if value is None:
        return MemoryQuotas()
    if isinstance(value, BuiltIn):
        return value  # type: ignore[return-value]  # its methods are there
    if isinstance(value, QuotaCallbacks):
        return GuardedQuotas(value)
    missing = [verb for verb in _VERBS if not callable(getattr(value, verb, None))]
    if missing or isinstance(value, type):
        lacks = f", which lacks {', '.join(missing)}" if missing else ", a class: pass an instance"
        raise ConfigurationError(
            "quotas: must be None, QuotaCallbacks, or an object with the methods "
            f"{', '.join(_VERBS)}; not {type(value).__name__}{lacks}"
        )
    verbs: dict[str, Any] = {verb: getattr(value, verb, None) for verb in _VERBS + _FURTHER_VERBS}
    return GuardedQuotas(QuotaCallbacks(**verbs))


def check_ttl(seconds: float) -> None:
    """Raise ConfigurationError when a permit's time to live is not a time."""
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"quotas: permit_ttl_seconds must be above 0, not {seconds!r}")


def _steady_clock() -> Callable[[], float]:
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


async def _nothing(*_: object) -> None:
    """Stand for a verb that was left out."""


async def _still_held(_: str) -> bool:
    return True


async def _unknown(_: Sequence[Charge]) -> Levels:
    return {}
