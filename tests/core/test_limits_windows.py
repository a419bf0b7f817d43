"""Calendar windows: local midnights, whatever the clocks do."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.windows import CALENDAR_WINDOWS, Calendar, calendar
from keypool_asgi.errors import ConfigurationError

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # midnight was skipped in spring, until 2018
    "America/Havana",  # midnight comes twice in autumn
    "Asia/Kathmandu",  # 5:45 ahead
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # 30 December 2011 was left out
)
MICRO = 10**6
moments = st.integers(1_000_000_000 * MICRO, 2_500_000_000 * MICRO)
calendars = st.builds(Calendar, st.sampled_from(CALENDAR_WINDOWS), st.sampled_from(ZONES))


@given(calendars, moments)
def test_a_moment_lies_in_its_window(one, now):
    begin, end = one.window(now)
    assert begin <= now < end


@given(calendars, moments)
def test_windows_follow_each_other(one, now):
    begin, end = one.window(now)
    assert one.window(begin) == one.window(end - 1) == (begin, end)
    assert one.window(end)[0] == end
    assert one.window(begin - 1)[1] == begin


@given(st.sampled_from(CALENDAR_WINDOWS), st.sampled_from(ZONES), moments)
def test_a_window_begins_with_its_first_local_day(per, zone, now):
    begin, _ = Calendar(per, zone).window(now)
    first, day = (datetime.fromtimestamp(one // MICRO, ZoneInfo(zone)).date() for one in (begin, now))
    expected = {
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
    }[per]
    assert first == expected
    before = datetime.fromtimestamp(begin // MICRO - 1, ZoneInfo(zone)).date()
    assert before < first


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Europe/Berlin", "2026-06-01", 24),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("America/Havana", "2026-11-01", 25),
    ],
)
def test_a_day_is_as_long_as_it_is(zone, day, hours):
    noon = int(datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo(zone)).timestamp()) * MICRO
    begin, end = Calendar("day", zone).window(noon)
    assert (end - begin) / MICRO / 3600 == hours


@pytest.mark.parametrize(("month", "days"), [(1, 31), (2, 28), (4, 30), (12, 31)])
def test_a_month_is_as_long_as_it_is(month, days):
    now = int(datetime(2026, month, 15, tzinfo=ZoneInfo("UTC")).timestamp()) * MICRO
    begin, end = Calendar("month", "UTC").window(now)
    assert (end - begin) // MICRO == days * 86400


def test_equal_calendars_are_one():
    assert calendar("day", "Europe/Berlin") is calendar("day", "Europe/Berlin")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "/etc/localtime", "a\0b"])
def test_an_unknown_zone_is_refused(zone):
    with pytest.raises(ConfigurationError, match="time_zone"):
        Calendar("day", zone)
