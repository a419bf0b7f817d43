"""One timer for many: visits what is going on every so often, and rests while nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Ticker"]

T = TypeVar("T")


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
