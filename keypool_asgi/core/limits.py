"""Limits as values, what a charge against one is, and what a caller reads when it is denied.

::

    Limit("requests", 600, per="minute")                        a rate
    Limit("audio_seconds", 360_000, per="month", time_zone="Europe/Berlin")     a budget
    Limit("streams", 20)                                        how many at the same time
    Limit("requests", 5, per="second", operations="transcripts.*")              of these operations only

``core.reservations`` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from math import ceil

from keypool_asgi.errors import ConfigurationError, QuotaExceeded

from .windows import CALENDAR_WINDOWS, Calendar, calendar

__all__ = [
    "HELD_UNITS",
    "LARGEST",
    "WINDOWED_UNITS",
    "Charge",
    "Denial",
    "Kind",
    "Limit",
    "Slot",
    "quota_exceeded",
    "sentence",
]

WINDOWED_UNITS = {
    "requests": "request",
    "upload_bytes": "uploaded byte",
    "audio_seconds": "audio second",
    "stream_seconds": "streaming second",
    "llm_tokens": "LLM token",
    "tts_characters": "synthesised character",
    "cost": "cost unit",
}
"""Units that are used up, to what one is called in a sentence. ``cost`` is in millionths of the price table's money."""

HELD_UNITS = {"concurrency": "concurrent request", "streams": "live session"}
"""Units that are occupied for a time and then free again."""

_NOUNS = WINDOWED_UNITS | HELD_UNITS

_RATE_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
_WINDOWS = (*_RATE_SECONDS, *CALENDAR_WINDOWS)

# Lengths that a rate's clock may tick in, in microseconds.
_TICKS = (1, 1000, 1_000_000)

LARGEST = 2**50
"""Largest amount, and largest capacity of a rate: every number of the arithmetic is then exact as a double."""

Slot = tuple[str, str]
"""What a level belongs to: ``(charge.subject, charge.limit.name)``."""


class Kind(IntEnum):
    """How a limit counts."""

    HELD = 0
    """What is held at the same time; no window."""

    RATE = 1
    """GCRA: it drains all the time."""

    BUDGET = 2
    """A calendar window: everything is back when the next one begins."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``amount`` of ``unit``, per window or at the same time.

    Args:
        unit: what is counted. ``"requests"`` (exchanges begun), ``"upload_bytes"`` (audio sent in request bodies),
            ``"audio_seconds"`` (transcribed), ``"stream_seconds"`` (sessions open), ``"llm_tokens"``,
            ``"tts_characters"`` and ``"cost"`` (millionths of the money of the operator's price table) are used up
            per window; ``"concurrency"`` (exchanges in flight) and ``"streams"`` (live sessions) are occupied at the
            same time, without a window.
        amount: how many, at least 1.
        per: the window. ``"second"``, ``"minute"`` and ``"hour"`` are rates: they drain all the time. ``"day"``,
            ``"week"`` and ``"month"`` are budgets: they begin anew at local midnight. None for what has no window.
        time_zone: whose midnight, as an IANA name such as ``"Europe/Berlin"``. For budgets only.
        operations: names or globs of the operations that count; None for all that use the unit.

    Attributes:
        label: the limit in words, such as ``"600 requests per minute"``. Different for different limits.
        name: which counter it has. That of a rate says its amount too; that of a budget or of what is held does not,
            so that a new amount holds for what has been used already.
        kind: how it counts.
        tick: microseconds in which a rate's clock ticks.
        span: ticks in its window.
        capacity: grains that fit into its bucket (see ``core.reservations``).
        calendar: a budget's windows, else None.

    Raises:
        ConfigurationError: unknown unit, window or time zone, or an amount that is out of its range.
    """

    unit: str
    amount: int
    per: str | None = None
    time_zone: str = "UTC"
    operations: tuple[str, ...] | None = None
    label: str = field(init=False, repr=False, compare=False)
    name: str = field(init=False, repr=False, compare=False)
    kind: Kind = field(init=False, repr=False, compare=False)
    tick: int = field(init=False, repr=False, compare=False)
    span: int = field(init=False, repr=False, compare=False)
    capacity: int = field(init=False, repr=False, compare=False)
    calendar: Calendar | None = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        unit: str,
        amount: int,
        per: str | None = None,
        *,
        time_zone: str = "UTC",
        operations: str | Iterable[str] | None = None,
    ) -> None:
        _check(unit, amount, per, time_zone)
        if operations is not None:
            operations = (operations,) if isinstance(operations, str) else tuple(sorted(set(operations)))
        budget = per in CALENDAR_WINDOWS
        tick, span = _clock_of(unit, amount, _RATE_SECONDS[per]) if per in _RATE_SECONDS else (0, 0)
        noun, words = _NOUNS[unit], _scope_words(per, time_zone, operations)
        values = {
            "unit": unit,
            "amount": amount,
            "per": per,
            "time_zone": time_zone,
            "operations": operations,
            "label": _count(amount, noun) + words,
            "name": f"{_count(amount, noun) if span else unit}{words}",
            "kind": Kind.RATE if span else Kind.BUDGET if budget else Kind.HELD,
            "tick": tick,
            "span": span,
            "capacity": amount * span,
            "calendar": calendar(per, time_zone) if per is not None and budget else None,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def spec(self) -> tuple[str, int, str | None, str, tuple[str, ...] | None]:
        """The limit as plain values, for a store to write down; ``Limit.of`` makes it anew."""
        return self.unit, self.amount, self.per, self.time_zone, self.operations

    @classmethod
    def of(cls, spec: Iterable[object]) -> Limit:
        """Make a limit of its ``spec``, whose lists may have been tuples."""
        unit, amount, per, time_zone, operations = spec
        return cls(unit, amount, per, time_zone=time_zone, operations=operations)  # type: ignore[arg-type]


def _check(unit: str, amount: int, per: str | None, time_zone: str) -> None:
    if unit not in _NOUNS:
        raise ConfigurationError(f"Limit: unknown unit {unit!r}; known are {', '.join(_NOUNS)}")
    if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= LARGEST:
        raise ConfigurationError(f"Limit({unit!r}): amount must be a whole number from 1 to 2**50, not {amount!r}")
    if unit in WINDOWED_UNITS and per not in _WINDOWS:
        raise ConfigurationError(f"Limit({unit!r}): per must be one of {', '.join(_WINDOWS)}")
    if unit in HELD_UNITS and per is not None:
        raise ConfigurationError(f"Limit({unit!r}) has no window: leave out per")
    if time_zone != "UTC" and per not in CALENDAR_WINDOWS:
        raise ConfigurationError(f"Limit({unit!r}): time_zone is for {', '.join(CALENDAR_WINDOWS)} only")


def _clock_of(unit: str, amount: int, seconds: int) -> tuple[int, int]:
    """Return a rate's tick in microseconds and its window in ticks: the finest with which the bucket stays exact."""
    for tick in _TICKS:
        span = seconds * 1_000_000 // tick
        if amount * span <= LARGEST:
            return tick, span
    raise ConfigurationError(f"Limit({unit!r}): {amount} per {seconds} s is more than can be counted")


def _scope_words(per: str | None, time_zone: str, operations: tuple[str, ...] | None) -> str:
    words = f" per {per}" if per else ""
    if time_zone != "UTC":
        words += f" ({time_zone})"
    return words + (f" for {', '.join(operations)}" if operations is not None else "")


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount that is to be held against one limit.

    Attributes:
        subject: whom the limit counts, such as ``"team:team-a"``.
        limit: the limit.
        amount: how much to hold, in the limit's unit, at least 0.
        slot: which level it moves.

    Raises:
        ConfigurationError: the amount is negative.
    """

    subject: str
    limit: Limit
    amount: int = 1
    slot: Slot = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ConfigurationError(f"Charge: amount must not be negative, like {self.amount!r}")
        object.__setattr__(self, "slot", (self.subject, self.limit.name))


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a reservation was refused.

    Attributes:
        charge: the charge that did not fit.
        retry_after: seconds until it would, or None when nobody knows.
    """

    charge: Charge
    retry_after: float | None


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


def quota_exceeded(denial: Denial, headers: tuple[tuple[bytes, bytes], ...] = ()) -> QuotaExceeded:
    """The 429 answer for a denial, with further response fields."""
    return QuotaExceeded(sentence(denial), retry_after=denial.retry_after, headers=headers)


def _duration(seconds: float) -> str:
    """Seconds in words, rounded up; in minutes from two minutes on, in hours from two hours on, then in days."""
    whole = max(1, ceil(seconds))
    for length, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if whole >= 2 * length:
            return _count(-(-whole // length), noun)
    return _count(whole, "second")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
