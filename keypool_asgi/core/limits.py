"""Limits as values, and the arithmetic of holding, settling and releasing them. Time is always an argument.

A limit per window is kept by GCRA (the generic cell rate algorithm, ITU-T I.371): one number, the *theoretical arrival
time*. Every unit moves it ahead by ``window / amount``; a charge fits as long as it is at most one window ahead of now.
A whole ``amount`` may come at once, and every window of any position holds at most ``amount`` more than had drained
before it. A limit without a window counts the open holds.

What has been used is a ``Level``; what one permit holds of it is a ``Hold``. The functions map old levels to new ones;
a store keeps them, and makes each call of ``reserve`` or ``settle`` one atomic step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from keypool_asgi.errors import ConfigurationError, QuotaExceeded

__all__ = [
    "Charge",
    "Denial",
    "Hold",
    "Level",
    "Limit",
    "Slot",
    "quota_exceeded",
    "reserve",
    "sentence",
    "settle",
    "unused",
]

WINDOW_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}

# Unit -> what one of them is called in a sentence. A unit without a window is counted while it is held.
WINDOWED_UNITS = {"requests": "request"}
HELD_UNITS = {"concurrency": "concurrent request"}
_NOUNS = WINDOWED_UNITS | HELD_UNITS

Slot = tuple[str, str]
"""What a level belongs to: ``(charge.subject, charge.limit.label)``."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``amount`` of ``unit``, per window or at the same time.

    Args:
        unit: ``"requests"`` (per window) or ``"concurrency"`` (exchanges at the same time, no window).
        amount: how many, at least 1.
        per: ``"second"``, ``"minute"``, ``"hour"`` or ``"day"`` for ``requests``; None for ``concurrency``.

    Attributes:
        label: the limit in words, such as ``"600 requests per minute"``. Different for different limits.
        window: length of the window in nanoseconds, 0 for ``concurrency``.

    Raises:
        ConfigurationError: unknown unit or window, or an amount that is not a whole number of at least 1.
    """

    unit: str
    amount: int
    per: str | None = None
    label: str = field(init=False, repr=False, compare=False)
    window: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.unit not in _NOUNS:
            raise ConfigurationError(f"Limit: unknown unit {self.unit!r}; known are {', '.join(_NOUNS)}")
        if isinstance(self.amount, bool) or not isinstance(self.amount, int) or self.amount < 1:
            raise ConfigurationError(f"Limit({self.unit!r}): amount must be at least 1, not {self.amount!r}")
        if self.unit in WINDOWED_UNITS and self.per not in WINDOW_SECONDS:
            raise ConfigurationError(f"Limit({self.unit!r}): per must be one of {', '.join(WINDOW_SECONDS)}")
        if self.unit in HELD_UNITS and self.per is not None:
            raise ConfigurationError(f"Limit({self.unit!r}) has no window: leave out per")
        label = _count(self.amount, _NOUNS[self.unit]) + (f" per {self.per}" if self.per else "")
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "window", WINDOW_SECONDS[self.per] * 10**9 if self.per else 0)


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount that is to be held against one limit.

    Attributes:
        subject: whom the limit counts, such as ``"team:team-a"``.
        limit: the limit.
        amount: how much to hold, in the limit's unit, at least 0.

    Raises:
        ConfigurationError: the amount is negative.
    """

    subject: str
    limit: Limit
    amount: int = 1

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ConfigurationError(f"Charge: amount must not be negative, like {self.amount!r}")


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a reservation was refused.

    Attributes:
        charge: the charge that did not fit.
        retry_after: seconds until it would, or None when nobody knows.
    """

    charge: Charge
    retry_after: float | None


Level = tuple[Limit, int, int, int]
"""What one subject has used of one limit: ``(limit, held, drained_at, returned)``.

Times are counted in ticks of ``1 / limit.amount`` nanoseconds: one unit lasts ``limit.window`` whole ticks, so that
nothing is ever rounded. (A plain tuple, like ``Hold``: a named one would double the cost of a reservation.)

- ``held``: amount that open holds hold now.
- ``drained_at``: the theoretical arrival time, when everything admitted will have drained; 0 for ``concurrency``.
- ``returned``: ticks given back so far: by how much ``drained_at`` is earlier than without any give-back.
"""

Hold = tuple[Limit, int, int, int]
"""What one permit holds of one level: ``(limit, amount, ends, soonest)``.

- ``ends``: when it will have drained, in ticks, if nothing were ever given back.
- ``soonest``: when it would have drained had it not queued behind others; it cannot be earlier.
"""


def reserve(
    levels: Mapping[Slot, Level], charges: Sequence[Charge], now: int
) -> tuple[dict[Slot, Level], dict[Slot, Hold]] | Denial:
    """Hold every charge or none of them, at ``now`` nanoseconds.

    Charges for the same subject and limit add up.

    Returns:
        The levels that change and what is held of them, or the denial that matters most: of a charge that can never
        fit, else of the one that fits last, else of one that waits for nobody knows how long.
    """
    changed: dict[Slot, Level] = {}
    holds: dict[Slot, Hold] = {}
    denied: list[Denial] = []
    for charge in charges:
        limit, amount = charge.limit, charge.amount
        slot = (charge.subject, limit.label)
        if slot in holds:
            amount += holds[slot][1]
            charge = Charge(charge.subject, limit, amount)  # noqa: PLW2901 - a denial names the whole amount
        old = levels.get(slot) or (limit, 0, 0, 0)
        new = _take(old, amount, now)
        if new is None:
            denied.append(Denial(charge, _wait(old, amount, now)))
        else:
            changed[slot] = new
            holds[slot] = (limit, amount, new[2] + new[3], now * limit.amount + amount * limit.window)
    return max(denied, key=_weight) if denied else (changed, holds)


def settle(level: Level | None, hold: Hold, used: int, now: int) -> Level:
    """End a hold of which ``used`` was really used, at ``now`` nanoseconds. 0 releases it.

    More than was held is charged, even beyond the limit: later reservations wait for it. Less is given back as far as
    it is certain not to have drained yet. A hold drains in its turn, behind those that were there before it; every
    give-back moves the holds behind it up, and for want of a history all open ones count as moved. So what is given
    back is exact at the moment of reservation, and never too much later: the kept units alone conform to GCRA.
    """
    limit, amount, ends, soonest = hold
    _, held, drained_at, returned = level or (limit, 0, 0, 0)
    if used == amount or not limit.window:
        return limit, held - amount, drained_at, returned
    spare = (amount - max(0, used)) * limit.window
    if spare > 0:
        spare = max(0, min(spare, max(ends - returned, soonest) - now * limit.amount))
        return limit, held - amount, drained_at - spare, returned + spare
    return limit, held - amount, max(drained_at, now * limit.amount) - spare, returned


def unused(level: Level, now: int) -> bool:
    """Whether a level says no more than a new one would, so that a store may forget it."""
    limit, held, drained_at, _ = level
    return not held and drained_at <= now * limit.amount


def sentence(denial: Denial) -> str:
    """What a caller reads about a denial: which limit, its window, and when it frees."""
    charge, limit = denial.charge, denial.charge.limit
    if charge.amount > limit.amount:
        return f"Limit of {limit.label} is too small for this request, which needs {charge.amount}."
    if denial.retry_after is not None:
        frees = f"in {_duration(denial.retry_after)}"
    elif limit.unit in HELD_UNITS:
        frees = "when that one ends" if limit.amount == 1 else "when one of them ends"
    else:
        frees = "later"
    return f"Limit of {limit.label} is used up; it frees {frees}."


def quota_exceeded(denial: Denial) -> QuotaExceeded:
    """The 429 answer for a denial."""
    return QuotaExceeded(sentence(denial), retry_after=denial.retry_after)


def _take(level: Level, amount: int, now: int) -> Level | None:
    """The level with ``amount`` more held, or None when that does not fit."""
    limit, held, drained_at, returned = level
    held += amount
    if not limit.window:
        return (limit, held, 0, 0) if held <= limit.amount else None
    ticks = now * limit.amount
    drained_at = max(drained_at, ticks) + amount * limit.window
    return (limit, held, drained_at, returned) if drained_at - ticks <= limit.amount * limit.window else None


def _wait(level: Level, amount: int, now: int) -> float | None:
    """Seconds until ``amount`` fits, rounded up to a nanosecond; None when it never will, or nobody knows."""
    limit, _, drained_at, _ = level
    if amount > limit.amount or not limit.window:
        return None
    ticks = drained_at + (amount - limit.amount) * limit.window - now * limit.amount
    return -(-ticks // limit.amount) / 10**9


def _weight(denial: Denial) -> tuple[bool, float]:
    # A known wait comes before an unknown one: no repeat can succeed before it is over, so it is worth telling.
    never = denial.charge.amount > denial.charge.limit.amount
    return never, -1.0 if denial.retry_after is None else denial.retry_after


def _duration(seconds: float) -> str:
    """Seconds in words, rounded up; in minutes from two minutes on, in hours from two hours on."""
    whole = max(1, ceil(seconds))
    for length, noun in ((3600, "hour"), (60, "minute")):
        if whole >= 2 * length:
            return _count(-(-whole // length), noun)
    return _count(whole, "second")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
