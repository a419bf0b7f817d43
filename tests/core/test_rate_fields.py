"""Response fields that say what is left, as draft-ietf-httpapi-ratelimit-headers-10 writes them."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.limits import LARGEST, Charge, Denial, Kind, Limit
from keypool_asgi.core.rate_fields import RATE_FIELDS, RateFields
from keypool_asgi.core.reservations import CEILING, standing

NOW = 1_900_000_000 * 10**6

# A list of strings with parameters that are integers or strings (RFC 9651, sections 3.1 to 3.3).
STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
ITEM = rf"{STRING}(?:;[a-z]+=(?:\d{{1,15}}|{STRING}))*"
LIST = re.compile(rf"{ITEM}(?:, {ITEM})*\Z")

limits = (
    st.builds(
        Limit,
        st.sampled_from(("requests", "upload_bytes", "cost")),
        st.integers(1, LARGEST),
        st.sampled_from(("day", "week", "month")),
        operations=st.none() | st.text(max_size=10),
    )
    | st.builds(Limit, st.just("requests"), st.integers(1, 10**6), st.sampled_from(("second", "minute", "hour")))
    | st.builds(Limit, st.sampled_from(("concurrency", "streams")), st.integers(1, LARGEST))
)
# Limits, and what has been used of each: nobody knows, some of it, or more than there is.
used = st.lists(st.tuples(limits, st.none() | st.integers(0, 100) | st.integers(0, CEILING)), max_size=5)


def slot_of(limit):
    return Charge("team:a", limit).slot


def level_of(limit, value):
    at = {Kind.HELD: 0, Kind.RATE: NOW // (limit.tick or 1)}.get(limit.kind)
    return (limit, value, limit.calendar.window(NOW)[0] if at is None else at)


def told(*pairs):
    """Fields, and levels, of limits of which so much has been used."""
    fields = RateFields({slot_of(limit): limit for limit, _ in pairs})
    return fields, {slot_of(limit): level_of(limit, value) for limit, value in pairs if value is not None}


def fields_of(*pairs):
    fields, levels = told(*pairs)
    return dict(fields.of(levels, NOW))


def test_nothing_is_said_of_no_limits():
    assert RateFields({}).of({}, NOW) == []
    assert fields_of((Limit("streams", 9), None)) == {}


def assert_well_formed(fields):
    assert set(fields) <= RATE_FIELDS
    for name in (b"ratelimit", b"ratelimit-policy"):
        assert LIST.match(fields[name].decode("ascii")), fields[name]
    for name in fields.keys() - {b"ratelimit", b"ratelimit-policy"}:
        assert fields[name].isdigit()


@given(used)
def test_fields_are_well_formed_and_tell_what_is_left(pairs):
    fields, levels = told(*pairs)
    said = dict(fields.of(levels, NOW))
    standings = [(limit, *standing(limit, levels[slot], NOW)) for slot, limit in fields_order(pairs) if slot in levels]
    if not standings:
        assert said == {}
        return
    assert_well_formed(said)
    left = [int(found) for found in re.findall(rb";r=(\d+)", said[b"ratelimit"])]
    assert left == [min(remaining, 10**15 - 1) for _, remaining, _ in standings]
    resets = [int(found) for found in re.findall(rb";t=(\d+)", said[b"ratelimit"])]
    assert resets == [math.ceil(reset) for limit, _, reset in standings if limit.kind is not Kind.HELD]
    limit, remaining, _ = min(standings, key=lambda one: one[1] / one[0].amount)
    assert int(said[b"x-ratelimit-limit"]) == limit.amount
    assert int(said[b"x-ratelimit-remaining"]) == remaining
    assert (b"x-ratelimit-reset" in said) == (limit.kind is not Kind.HELD)


def fields_order(pairs):
    """Of several limits that share a counter, the last one holds, in the place of the first."""
    return {slot_of(limit): limit for limit, _ in pairs}.items()


@given(used, limits, st.integers(0, CEILING), st.none() | st.floats(0, 10**9))
def test_a_refusal_says_that_too_little_is_left_of_what_was_denied(pairs, limit, amount, wait):
    """Also where the level is not known, or as it was before others used it up."""
    fields, levels = told(*pairs)
    denial = Denial(Charge("team:a", limit, amount), wait)
    said = dict(fields.of_denied(denial, levels, NOW))
    assert_well_formed(said)
    words = fields_of((limit, 0))[b"ratelimit"].partition(b";r=")[0]
    _, _, of_denied = said[b"ratelimit"].partition(words + b";r=")
    assert int(re.match(rb"\d+", of_denied)[0]) <= max(0, amount - 1)
    if limit.kind is not Kind.HELD:
        assert re.match(rb"\d+;t=(\d+)", of_denied)[1] == b"%d" % math.ceil(wait or 0)


@pytest.mark.parametrize(
    ("limit", "policy"),
    [
        (Limit("requests", 600, per="minute"), '"600 requests per minute";q=600;w=60'),
        (Limit("requests", 5, per="week"), '"5 requests per week";q=5;w=604800'),
        (Limit("streams", 9), '"9 live sessions";q=9;qu="streams"'),
        (Limit("upload_bytes", 9, per="hour"), '"9 uploaded bytes per hour";q=9;w=3600;qu="content-bytes"'),
        (Limit("cost", 9, per="month"), '"9 cost units per month";q=9;qu="cost"'),
        (Limit("requests", 9, per="day", operations='a"\\é'), '"9 requests per day for a\\"\\\\?";q=9;w=86400'),
    ],
)
def test_each_kind_of_limit(limit, policy):
    fields = fields_of((limit, 0))
    assert fields[b"ratelimit-policy"].decode() == policy
    assert fields[b"ratelimit"].decode().startswith(policy.partition(";q=")[0] + f";r={limit.amount}")


def test_the_old_fields_tell_of_the_scarcest():
    day, at_once = Limit("requests", 1000, per="day"), Limit("concurrency", 4)
    assert fields_of((day, 100), (at_once, 3))[b"x-ratelimit-limit"] == b"4"
    scarce = fields_of((day, 900), (at_once, 1))
    assert scarce[b"x-ratelimit-remaining"] == b"100"
    assert scarce[b"x-ratelimit-reset"] == b"%d" % (day.calendar.window(NOW)[1] // 10**6 - NOW // 10**6)
    assert b"x-ratelimit-reset" not in fields_of((day, 100), (at_once, 3))
