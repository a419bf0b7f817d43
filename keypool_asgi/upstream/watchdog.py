"""A deadline that costs no timer per wait: one timer stays armed and compares."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Watchdog"]


class Watchdog:
    """Calls ``expired`` once when a started wait is not stopped in time.

    Starting and stopping only move a deadline. The timer is made by the first wait, and looks at the deadline when it
    goes off: on a connection in use that is once in many requests.
    """

    __slots__ = ("_deadline", "_expired", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Expect something within ``seconds``, infinity for never mind; an earlier expectation is replaced."""
        if seconds == math.inf:
            self._deadline = None
            return
        self._deadline = when = self._loop.time() + seconds
        timer = self._timer
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def stop(self) -> None:
        """It came."""
        self._deadline = None

    def cancel(self) -> None:
        """Stop for good: give the timer back, and forget whom to call, who has this one and would not be freed."""
        self._deadline = None
        self._expired = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        self._deadline = None
        self._expired()


def _nobody() -> None:
    """Stand for who was to be called."""
