"""Noticing that a caller has left while its answer is waited for, at next to no cost for an answer that comes soon."""

from __future__ import annotations

import asyncio
from typing import Any

from keypool_asgi.asgi import Receive

from .ticker import Ticker

__all__ = ["Leaving", "Lookout", "retrieved"]

_LOOK_SECONDS = 0.03


def retrieved(task: asyncio.Task[Any]) -> None:
    """Look at what a task has raised, where nobody waits for it any more: asyncio would complain at some later time."""
    if not task.cancelled():
        task.exception()


class Lookout:
    """Watches for callers who leave; one timer for all exchanges of an event loop."""

    def __init__(self) -> None:
        self._last: tuple[asyncio.AbstractEventLoop, Ticker[Leaving]] | None = None

    def watch(self, receive: Receive) -> Leaving:
        """Cancel the task that runs now when its caller leaves, until it is told to stop."""
        loop = asyncio.get_running_loop()
        last = self._last
        if last is None or last[0] is not loop:
            # What waits on another loop, perhaps in another thread, keeps the ticker that it has.
            last = self._last = loop, Ticker(_LOOK_SECONDS, _look)
        return Leaving(receive, *last)


def _look(waiting: list[Leaving]) -> None:
    for leaving in waiting:
        leaving.go_on()


class Leaving:
    """Cancels the task that it was made in when the caller leaves.

    For requests without a body: nothing else is to be read from their callers. It begins to read only after a moment,
    because a task for that costs more than the rest of a short exchange.

    Attributes:
        noticed: whether the caller has left.
    """

    __slots__ = ("_cancelling", "_loop", "_owner", "_reading", "_receive", "_stopped", "_ticker", "_waited", "noticed")

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop, ticker: Ticker[Leaving]) -> None:
        self.noticed = False
        self._stopped = False
        self._waited = False
        self._receive = receive
        self._loop = loop
        self._owner = asyncio.current_task(loop)
        self._cancelling = self._owner.cancelling() if self._owner is not None else 0
        self._reading: asyncio.Task[None] | None = None
        self._ticker = ticker
        ticker.add(self)

    async def look(self) -> None:
        """Begin to read now, and notice a caller that has left already."""
        self._begin()
        await asyncio.sleep(0)

    def go_on(self) -> None:
        """Begin to read if this is not the first time: then a moment has passed for sure."""
        if self._waited:
            self._begin()
        self._waited = True

    def caused(self) -> bool:
        """Whether a caught cancellation is this one's alone. Then it is taken back, as a time-out's would be."""
        return self.noticed and self._owner is not None and self._owner.uncancel() <= self._cancelling

    async def stop(self) -> None:
        """Read no more, and cancel nothing from now on."""
        self._stopped = True
        self._ticker.discard(self)
        reading = self._reading
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait([reading])

    def _begin(self) -> None:
        self._ticker.discard(self)
        self._reading = self._loop.create_task(self._read())
        self._reading.add_done_callback(retrieved)

    async def _read(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._owner is not None and not self._stopped:
            self.noticed = True
            self._owner.cancel()
