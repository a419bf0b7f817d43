"""Noticing that a caller has left while its answer is waited for, at no cost for an answer that comes soon."""

from __future__ import annotations

import asyncio
from typing import Any

from keypool_asgi.asgi import Receive

__all__ = ["Leaving", "retrieved"]

_SOON_SECONDS = 0.05


def retrieved(task: asyncio.Task[Any]) -> None:
    """Look at what a task has raised, where nobody waits for it any more: asyncio would complain at some later time."""
    if not task.cancelled():
        task.exception()


class Leaving:
    """Cancels the task that it was made in when the caller leaves.

    For requests without a body: nothing else is to be read from their callers. It begins to read only after a moment,
    because a task for that costs more than the rest of a short exchange.

    Attributes:
        noticed: whether the caller has left.
    """

    def __init__(self, receive: Receive) -> None:
        self.noticed = False
        self._stopped = False
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._cancelling = self._owner.cancelling() if self._owner is not None else 0
        self._reading: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(_SOON_SECONDS, self._begin)

    async def look(self) -> None:
        """Begin to read now, and notice a caller that has left already."""
        self._timer.cancel()
        self._begin()
        await asyncio.sleep(0)

    def caused(self) -> bool:
        """Whether a caught cancellation is this one's alone. Then it is taken back, as a time-out's would be."""
        return self.noticed and self._owner is not None and self._owner.uncancel() <= self._cancelling

    async def stop(self) -> None:
        """Read no more, and cancel nothing from now on."""
        self._stopped = True
        self._timer.cancel()
        reading = self._reading
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait([reading])

    def _begin(self) -> None:
        self._reading = self._loop.create_task(self._read())
        self._reading.add_done_callback(retrieved)

    async def _read(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._owner is not None and not self._stopped:
            self.noticed = True
            self._owner.cancel()
