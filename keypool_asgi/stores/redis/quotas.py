"""Quota in a Redis server: exact for all of its processes, on several machines."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from cachetools import LRUCache

from keypool_asgi.core.limits import Charge, Denial, Kind, Limit, Slot
from keypool_asgi.core.reservations import CEILING, Level, Levels, reserve
from keypool_asgi.core.windows import calendar
from keypool_asgi.errors import StoreUnavailable
from keypool_asgi.stores.callables import store_failed
from keypool_asgi.stores.quotas import check_ttl
from keypool_asgi.stores.resources import BuiltIn

from .line import Argument
from .scripts import Script, key_names
from .server import RedisServer

__all__ = ["RedisQuotas"]

_RESERVE, _RENEW, _SETTLE, _RENAME, _LEVELS = (
    Script.load("quotas", verb) for verb in ("reserve", "renew", "settle", "rename", "levels")
)
_KEYS = ("levels", "idle", "permits", "expiries")

# Levels that are remembered for ``seen``.
_SEEN = 4096

# How often a call is repeated at most because the windows that it was given were not around the server's now: once for
# each calendar of a permit.
_ASKED = 8
_ASKS = b"windows"


# Ends that could not be told and are remembered, and how often each is tried.
_OWED = 10_000
_TRIES = 3


class _Owed(NamedTuple):
    """How a permit ends that is over here, and not yet in the server."""

    how: str
    used: Mapping[str, int]
    tries: int = 0


class RedisQuotas(BuiltIn):
    """Quota in a Redis server. Every verb is one script and one round trip, by the server's clock.

    It counts as ``core.reservations`` says, to the unit. A permit whose process dies expires after
    ``permit_ttl_seconds``. All of it lies in one hash slot, because one reservation may be for any subjects.

    A server that dies without an append-only file takes the counters with it: limits then begin anew, and permits that
    were open end without effect. With one (``appendfsync everysec``) that is so for the last second.

    A verb whose answer was lost is repeated, which changes nothing. A permit whose end could not be told, or of which
    nobody knows whether it is held, is ended as soon as the server answers another verb; else it expires.

    Args:
        server: a URL, or a ``RedisServer`` that others use too; it is then theirs to close.
        clock: returns Unix time in seconds, which all processes must agree on. None: the server's.
        permit_ttl_seconds: how long a permit lives that is neither renewed nor ended.

    Raises:
        ConfigurationError: ``permit_ttl_seconds`` is not above 0, or the server's settings are wrong.
    """

    def __init__(
        self, server: str | RedisServer, *, clock: Callable[[], float] | None = None, permit_ttl_seconds: float = 120
    ) -> None:
        check_ttl(permit_ttl_seconds)
        self.permit_ttl_seconds = permit_ttl_seconds
        self._ttl = int(permit_ttl_seconds * 1e6)
        self._clock = clock
        self._shared = isinstance(server, RedisServer)
        self._server = server if isinstance(server, RedisServer) else RedisServer(server)
        self._keys = key_names(self._server.prefix, "quotas", _KEYS)
        # By how many microseconds the server's clock was ahead of this machine's when it was last heard.
        self._ahead = 0
        self._owed: OrderedDict[str, _Owed] = OrderedDict()
        self._seen: LRUCache[Slot, Level] = LRUCache(_SEEN)
        # What the server calls the levels of permits that end, for ``seen``.
        self._names: LRUCache[bytes, tuple[Slot, Limit]] = LRUCache(_SEEN)

    def __repr__(self) -> str:
        return f"<RedisQuotas in {self._server!r}>"

    async def open(self) -> None:
        """Connect now; the first use does it otherwise. See ``RedisServer.open``."""
        await self._server.open()

    async def aclose(self) -> None:
        """Finish what has begun and disconnect; the next use connects again."""
        if not self._shared:
            await self._server.aclose()

    async def reserve(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        """Hold every charge or none of them. One whose caller is cancelled is released."""
        self._owed.pop(permit_id, None)
        merged = _merged(charges)
        try:
            outcome, now, levels = await self._hold(permit_id, merged)
        except asyncio.CancelledError:
            self._post_end(permit_id, _Owed("released", {}))
            raise
        except StoreUnavailable:
            self._owe(permit_id, _Owed("released", {}))
            raise
        if outcome == b"held":
            return None
        denial = reserve(levels, charges, now)
        if isinstance(denial, Denial):
            return denial
        raise store_failed("quotas", "reserve", ArithmeticError("the server denied what this process would hold"))

    async def renew(self, permit_id: str) -> bool:
        """Let a permit live for ``permit_ttl_seconds`` from now; False when it is not held any more."""
        return bool(await self._call(_RENEW, (permit_id, self._ttl)))

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """End a permit by what was used, by unit; a unit that is not named counts as it was reserved.

        It happens even if the caller is cancelled.
        """
        await self._end(permit_id, "used", {unit: min(max(0, amount), CEILING) for unit, amount in used.items()})

    async def release(self, permit_id: str) -> None:
        """End a permit as if nothing had been used (see ``core.reservations`` for how exactly)."""
        await self._end(permit_id, "released", {})

    async def rename(self, permit_id: str, new_id: str, ttl_seconds: float) -> bool:
        """Let a permit live on under another id, for ``ttl_seconds`` from now; False when that cannot be."""
        return bool(await self._call(_RENAME, (permit_id, new_id, int(ttl_seconds * 1e6))))

    async def levels(self, charges: Sequence[Charge]) -> Levels:
        """Return how the limits of these charges stand; one that is unused is left out."""
        names = {_field(charge.slot): (charge.slot, charge.limit) for charge in charges}
        return self._heard(await self._call(_LEVELS, tuple(names)), names)

    def seen(self, charges: Sequence[Charge]) -> Levels:
        """Return the same, as this process last heard it."""
        seen = self._seen
        return {charge.slot: seen[charge.slot] for charge in charges if charge.slot in seen}

    async def _hold(self, permit_id: str, merged: Mapping[Slot, tuple[Limit, int]]) -> tuple[bytes, int, Levels]:
        """Return what came of a reservation, the server's time, and the levels."""
        names = {_field(slot): (slot, limit) for slot, (limit, _) in merged.items()}
        self._names.update(names)
        for _ in range(_ASKED):
            holds = [self._terms(slot, limit, amount) for slot, (limit, amount) in merged.items()]
            answer = await self._call(_RESERVE, (permit_id, self._ttl, json.dumps(holds)))
            self._ahead = int(answer[1]) - self._local_now()
            if answer[0] != _ASKS:
                return answer[0], int(answer[1]), self._heard(answer, names)
        raise _no_windows("reserve")

    async def _end(self, permit_id: str, how: str, used: Mapping[str, int]) -> None:
        calendars: dict[str, list[int]] = {}
        for _ in range(_ASKED):
            try:
                answer = await self._call(_SETTLE, (permit_id, how, json.dumps(used), json.dumps(calendars)))
            except StoreUnavailable:
                self._owe(permit_id, _Owed(how, used))
                raise
            if answer[0] != _ASKS:
                self._heard(answer, self._names)
                return
            name = answer[2].decode()
            calendars[name] = _windows(name, int(answer[1]))
        raise _no_windows("settle")

    async def _call(self, script: Script, words: Sequence[Argument]) -> Any:
        answer = await self._server.call(script, self._keys, self._words(words))
        if self._owed:
            owed, self._owed = self._owed, OrderedDict()
            for permit_id, end in owed.items():
                self._post_end(permit_id, end)
        return answer

    def _owe(self, permit_id: str, end: _Owed) -> None:
        """Remember an end that could not be told; the oldest are left to expire."""
        if end.tries < _TRIES:
            self._owed[permit_id] = end
            if len(self._owed) > _OWED:
                self._owed.popitem(last=False)

    def _post_end(self, permit_id: str, end: _Owed) -> None:
        # Its windows are those that were given when it was reserved: it is not so long ago.
        words = self._words((permit_id, end.how, json.dumps(end.used), "{}"))
        failed = partial(self._owe, permit_id, end._replace(tries=end.tries + 1))
        self._server.post(_SETTLE, self._keys, words, failed)

    def _words(self, words: Sequence[Argument]) -> Sequence[Argument]:
        return ("" if self._clock is None else int(self._clock() * 1e6), *words)

    def _heard(self, answer: Sequence[bytes], names: Mapping[bytes, tuple[Slot, Limit]]) -> Levels:
        """Read the levels in an answer as far as they have names, and remember them."""
        levels: dict[Slot, Level] = {}
        for field, value, at in zip(answer[2::3], answer[3::3], answer[4::3], strict=True):
            known = names.get(field)
            if known is not None:
                levels[known[0]] = (known[1], int(value), int(at))
        self._seen.update(levels)
        return levels

    def _local_now(self) -> int:
        return int((time.time() if self._clock is None else self._clock()) * 1e6)

    def _terms(self, slot: Slot, limit: Limit, amount: int) -> list[Any]:
        """What the script must know of one hold; see ``quotas.lua``."""
        terms = [_field(slot).decode(), int(limit.kind), min(amount, CEILING), limit.amount, limit.tick, limit.span]
        if limit.kind is not Kind.BUDGET:
            return [*terms, limit.unit]
        name = f"{limit.per} {limit.time_zone}"
        return [*terms, limit.unit, name, _windows(name, self._local_now() + self._ahead)]


def _windows(name: str, now: int) -> list[int]:
    """Return the beginnings of the last, this and the next window of a calendar, and the end of the next."""
    windows = calendar(*name.split(" "))
    start, end = windows.window(now)
    return [windows.window(start - 1)[0], start, end, windows.window(end)[1]]


def _no_windows(verb: str) -> StoreUnavailable:
    return store_failed(
        "quotas", verb, TimeoutError("the calendars of this machine and the server's clock do not agree")
    )


def _merged(charges: Sequence[Charge]) -> dict[Slot, tuple[Limit, int]]:
    """Add up the charges of one slot."""
    merged: dict[Slot, tuple[Limit, int]] = {}
    for charge in charges:
        before = merged.get(charge.slot, (charge.limit, 0))[1]
        merged[charge.slot] = (charge.limit, before + charge.amount)
    return merged


def _field(slot: Slot) -> bytes:
    """Name a slot for the server. The length keeps a subject and a limit's name apart, whatever they have in them."""
    subject, name = slot
    return f"{len(subject)}:{subject}{name}".encode()
