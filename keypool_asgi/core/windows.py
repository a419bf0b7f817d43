"""Calendar windows: the day, week and month that a moment lies in, in a named time zone."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from keypool_asgi.errors import ConfigurationError

__all__ = ["CALENDAR_WINDOWS", "Calendar", "calendar"]

CALENDAR_WINDOWS = ("day", "week", "month")

_MICRO = 10**6


class Calendar:
    """The windows of one length in one time zone. Times are Unix microseconds.

    A window begins at local midnight: of every day, every Monday, or every first of a month. So a day has 23 or 25
    hours where the clocks change, and a month is as long as it is. Where a change skips midnight, the window begins at
    the change; where it repeats midnight, at the first one.
    """

    def __init__(self, per: str, time_zone: str) -> None:
        self._per = per
        self._zone = _zone(time_zone)
        # The window that was asked for last. It is read and replaced as a whole, so threads do not disturb each other.
        self._last = (0, 0)

    def window(self, now: int) -> tuple[int, int]:
        """Return when the window of ``now`` began, and when the next one begins."""
        last = self._last
        if not last[0] <= now < last[1]:
            last = self._last = self._find(now)
        return last

    def _find(self, now: int) -> tuple[int, int]:
        day = datetime.fromtimestamp(now // _MICRO, self._zone).date()
        if self._per == "week":
            day -= timedelta(days=day.weekday())
        elif self._per == "month":
            day = day.replace(day=1)
        return self._midnight(day), self._midnight(self._next(day))

    def _next(self, day: date) -> date:
        if self._per == "month":
            return (day + timedelta(days=31)).replace(day=1)
        return day + timedelta(days=7 if self._per == "week" else 1)

    def _midnight(self, day: date) -> int:
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp()) * _MICRO


@lru_cache(maxsize=256)
def calendar(per: str, time_zone: str) -> Calendar:
    """Return the windows of ``per`` (``"day"``, ``"week"`` or ``"month"``) in an IANA time zone.

    Raises:
        ConfigurationError: the time zone is unknown on this machine.
    """
    return Calendar(per, time_zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ConfigurationError(
            f"time_zone: {name!r} is not known here; use a name such as 'Europe/Berlin' (or install tzdata)"
        ) from None
