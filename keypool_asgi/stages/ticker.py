"""One timer for many: visits what is going on every so often, and rests while nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from keypool_asgi.errors import Refusal
from keypool_asgi.ports import QuotaStore

__all__ = ["Ticker", "renewing"]

T = TypeVar("T")

# How many permits are renewed at the same time.
_AT_ONCE = 64


class Ticker(Generic[T]):
    """Calls ``visit`` with everything that has been added and not discarded.

    Adding and discarding cost an entry in a dict; the timer is the event loop's, one for all.

    Args:
        seconds: from one visit to the next.
        visit: must not wait; it may start tasks.
    """

    def __init__(self, seconds: float, visit: Callable[[list[T]], None]) -> None:
        self._seconds = seconds
        self._visit = visit
        self._items: dict[T, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T) -> None:
        """Visit this from now on."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Another event loop has begun, so nothing of the last one is going on any more.
            self._loop, self._timer = loop, None
            self._items.clear()
        self._items[item] = None
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._tick)

    def discard(self, item: T) -> None:
        """Do not visit this any more."""
        self._items.pop(item, None)

    def _tick(self) -> None:
        self._timer = None
        if self._items and self._loop is not None:
            self._timer = self._loop.call_later(self._seconds, self._tick)
            self._visit(list(self._items))


def renewing(quotas: QuotaStore, seconds: float) -> Ticker[str]:
    """Return a ticker that prolongs permits. Visits do not overlap, however slow the store is."""
    going: set[asyncio.Task[None]] = set()

    def visit(permits: list[str]) -> None:
        loop = asyncio.get_running_loop()
        if not any(task.get_loop() is loop for task in going):
            task = loop.create_task(_renew(quotas, permits))
            going.add(task)
            task.add_done_callback(going.discard)

    return Ticker(seconds, visit)


async def _renew(quotas: QuotaStore, permits: list[str]) -> None:
    for first in range(0, len(permits), _AT_ONCE):
        renewals = map(quotas.renew, permits[first : first + _AT_ONCE])
        # A store that is away for a moment must not end exchanges; their permits live on until they expire.
        for outcome in await asyncio.gather(*renewals, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Refusal):
                raise outcome
