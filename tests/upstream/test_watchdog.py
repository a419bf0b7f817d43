"""One timer for many waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, cast

from keypool_asgi.upstream.watchdog import Watchdog


class Timer:
    """A timer of ``Clock``."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The two methods of a loop that a watchdog uses, with time to be moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def move_to(self, now: float) -> None:
        self.now = now
        for timer in list(self.timers):
            if timer.when() <= now and not timer.cancelled:
                timer.cancelled = True
                timer.callback()

    def armed(self) -> list[float]:
        return [timer.when() for timer in self.timers if not timer.cancelled]


def make() -> tuple[Clock, Watchdog, list[float]]:
    clock = Clock()
    fired: list[float] = []
    return (
        clock,
        Watchdog(cast("asyncio.AbstractEventLoop", cast("Any", clock)), lambda: fired.append(clock.now)),
        fired,
    )


def test_it_fires_once() -> None:
    clock, dog, fired = make()
    dog.start(5)
    clock.move_to(4.9)
    assert fired == []
    clock.move_to(5)
    clock.move_to(50)
    assert fired == [5]


def test_many_waits_share_one_timer() -> None:
    clock, dog, fired = make()
    for step in range(100):
        clock.now = step * 0.01
        dog.start(5)
        dog.stop()
    assert len(clock.timers) == 1
    dog.start(5)
    clock.move_to(5)
    assert (fired, clock.armed()) == ([], [0.99 + 5])
    clock.move_to(5.99)
    assert fired == [5.99]


def test_a_shorter_wait_moves_the_timer() -> None:
    clock, dog, fired = make()
    dog.start(100)
    dog.start(1)
    assert clock.armed() == [1]
    clock.move_to(1)
    assert fired == [1]


def test_stopped_and_cancelled_it_is_silent() -> None:
    clock, dog, fired = make()
    dog.start(1)
    dog.stop()
    clock.move_to(2)
    dog.start(1)
    dog.cancel()
    dog.cancel()
    assert clock.armed() == []
    clock.move_to(9)
    assert fired == []


def test_infinity_is_never() -> None:
    clock, dog, fired = make()
    dog.start(1)
    dog.start(math.inf)
    clock.move_to(9)
    assert (fired, clock.armed()) == ([], [])
