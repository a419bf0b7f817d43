"""The arithmetic of holding, settling and releasing quota. Time is always an argument: Unix time in microseconds.

What has been used of one limit is a ``Level``; what one permit holds of it is a ``Hold``. The functions map old levels
to new ones; a store keeps them, and makes each call of ``reserve`` or ``settle`` one atomic step.

Everything is whole numbers below 2**53, so that another implementation (in Lua, say, which has only doubles) can agree
to the unit. A level is one number, ``value``, and a time, ``at``. By the limit's kind:

HELD (``concurrency``, ``streams``)
    ``value``: units that open permits hold. ``at``: always 0.

    - A charge fits when ``value + amount <= limit.amount``.
    - Settling subtracts what was held, whatever was used.

RATE (per second, minute, hour): GCRA (the generic cell rate algorithm, ITU-T I.371) as a bucket that drains. Its clock
    ticks every ``limit.tick`` microseconds: 1, 1000 or 1000000, the finest that keeps ``capacity`` within 2**50. One
    unit is ``limit.span`` grains, where ``span`` is the window in ticks; ``limit.amount`` grains drain per tick, so
    that nothing is ever rounded. ``value``: grains in the bucket at tick ``at``.

    - First it drains: ``value = max(0, value - limit.amount * (tick - at))``, with ``tick = now // limit.tick``. When
      the clock went back (``tick < at``), nothing drains and ``at`` stays; unless it went back by more than a window:
      then ``at`` becomes ``tick``.
    - A charge fits when ``value + amount * span <= limit.capacity``, where ``capacity = limit.amount * span``.
    - Settling for exactly what was held changes nothing.
    - Settling for more than was held adds the grains of the rest, beyond the capacity if need be: it is owed.
    - Settling for less takes out the grains of the rest, as far as they are certainly still there: a hold of ``amount``
      that was made at tick ``t`` has at least ``amount * span - limit.amount * (tick - t)`` of its own grains left. (In
      a full bucket it may have more. What is given back is never too much: the kept units alone conform to GCRA.)

BUDGET (per day, week, month): a calendar window. ``value``: units that are held or used in the window that began at
    ``at``.

    - First the window is found that ``now`` lies in. When it began after ``at``, ``value`` becomes 0 and ``at`` its
      beginning. When it began before (another process's clock is ahead), ``at`` stays if it is the very next window's
      beginning; else ``at`` becomes this window's beginning and ``value`` stays.
    - A charge fits when ``value + amount <= limit.amount``.
    - Settling for more than was held adds the rest to the window that is now. Settling for less takes the rest out
      only if the window is still the one that the hold was made in.

A ``value`` that would be above 2**52 becomes 2**52, one below 0 becomes 0. Units of one slot add up within a
reservation. All charges of a reservation fit, or none is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .limits import Charge, Denial, Kind, Limit, Slot

__all__ = [
    "CEILING",
    "Hold",
    "Level",
    "Levels",
    "idle_at",
    "remaining",
    "reserve",
    "settle",
    "standing",
]

CEILING = 2**52
"""No level's value is above this."""

Level = tuple[Limit, int, int]
"""What one subject has used of one limit: ``(limit, value, at)``. A named tuple would double a reservation's cost."""

Levels = Mapping[Slot, Level]

Hold = tuple[Limit, int, int]
"""What one permit holds of one level: ``(limit, amount, at)``, with the level's time when it was made."""

_HELD, _RATE = Kind.HELD, Kind.RATE


def reserve(levels: Levels, charges: Sequence[Charge], now: int) -> tuple[dict[Slot, Level], dict[Slot, Hold]] | Denial:
    """Hold every charge or none of them.

    Returns:
        The levels that change and what is held of them, or the denial that matters most: of a charge that can never
        fit, else of the one that fits last, else of one that waits for nobody knows how long.
    """
    changed: dict[Slot, Level] = {}
    holds: dict[Slot, Hold] = {}
    denied: list[Denial] = []
    for charge in charges:
        limit, amount, slot = charge.limit, charge.amount, charge.slot
        if slot in holds:
            amount += holds[slot][1]
            charge = Charge(charge.subject, limit, amount)  # noqa: PLW2901 - a denial names the whole amount
        value, at = _current(limit, levels.get(slot), now)
        if limit.kind is _RATE:
            value += amount * limit.span
            fits = value <= limit.capacity
        else:
            value += amount
            fits = value <= limit.amount
        if fits:
            changed[slot] = (limit, value, at)
            holds[slot] = (limit, amount, at)
        else:
            denied.append(Denial(charge, _wait(charge, value, at, now)))
    return max(denied, key=_weight) if denied else (changed, holds)


def settle(level: Level | None, hold: Hold, used: int, now: int) -> Level:
    """End a hold of which ``used`` was really used. 0 releases it."""
    limit, amount, made = hold
    if limit.kind is _HELD:
        return limit, (level[1] - amount if level and level[1] > amount else 0), 0
    if used == amount and level:
        return level
    value, at = _current(limit, level, now)
    rest = min(max(0, used), CEILING) - amount
    if limit.kind is _RATE:
        grains = rest * limit.span
        if rest < 0:
            grains = -max(0, min(-grains, amount * limit.span - limit.amount * max(0, at - made)))
    else:
        grains = rest if rest > 0 or at == made else 0
    return limit, max(0, min(value + grains, CEILING)), at


def idle_at(level: Level) -> int:
    """When a level will say no more than a new one would, in Unix microseconds, so that a store may forget it.

    0 when it says nothing now and always; for what is held, never while something is.
    """
    limit, value, at = level
    if value == 0:
        return 0
    if limit.kind is _HELD:
        return CEILING
    if limit.kind is _RATE:
        return (at - (-value // limit.amount)) * limit.tick
    return _window_end(limit, at)


def standing(limit: Limit, level: Level | None, now: int) -> tuple[int, float]:
    """How a limit stands; one whose level is unknown is unused. A plain pair, because every answer tells it.

    Returns:
        Units that fit now; and seconds until everything has drained or the next window begins, 0 for what has no
        window.
    """
    value, at = _current(limit, level, now)
    if limit.kind is _RATE:
        ticks = -(-value // limit.amount)
        fits = (limit.capacity - value) // limit.span if value < limit.capacity else 0
        return fits, ticks * limit.tick / 10**6
    fits = limit.amount - value if value < limit.amount else 0
    return fits, 0.0 if limit.kind is _HELD else (_window_end(limit, at) - now) / 10**6


def remaining(levels: Levels, charges: Iterable[Charge], unit: str, now: int) -> int | None:
    """How many of ``unit`` all those limits leave at most; None when none of them counts it."""
    fits = [standing(one.limit, levels.get(one.slot), now)[0] for one in charges if one.limit.unit == unit]
    return min(fits, default=None)


def _current(limit: Limit, level: Level | None, now: int) -> tuple[int, int]:
    """Return a level's value and time, once what is over by ``now`` is gone."""
    kind = limit.kind
    if kind is _HELD:
        return (level[1] if level else 0), 0
    if kind is _RATE:
        tick = now // limit.tick
        if level is None:
            return 0, tick
        _, value, at = level
        if tick >= at:
            drained = limit.amount * (tick - at)
            return (value - drained if value > drained else 0), tick
        return value, (tick if at - tick > limit.span else at)
    start, end = limit.calendar.window(now)  # type: ignore[union-attr]  # a budget has one
    if level is None or start > level[2]:
        return 0, start
    return level[1], (level[2] if level[2] == end else start)


def _window_end(limit: Limit, at: int) -> int:
    return limit.calendar.window(at)[1]  # type: ignore[union-attr]  # a budget has one


def _wait(charge: Charge, value: int, at: int, now: int) -> float | None:
    """Seconds until a charge fits that brings its level to ``value``; None when it never will, or nobody knows."""
    limit = charge.limit
    if charge.amount > limit.amount or limit.kind is _HELD:
        return None
    if limit.kind is _RATE:
        ticks = -((limit.capacity - value) // limit.amount)
        return ((at + ticks) * limit.tick - now) / 10**6
    return (_window_end(limit, at) - now) / 10**6


def _weight(denial: Denial) -> tuple[bool, float]:
    # A known wait comes before an unknown one: no repeat can succeed before it is over, so it is worth telling.
    never = denial.charge.amount > denial.charge.limit.amount
    return never, -1.0 if denial.retry_after is None else denial.retry_after
