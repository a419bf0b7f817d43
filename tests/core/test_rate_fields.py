"""Response fields that say what is left, as draft-ietf-httpapi-ratelimit-headers-10 writes them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.limits import LARGEST, Limit
from keypool_asgi.core.rate_fields import RATE_FIELDS, rate_fields
from keypool_asgi.core.reservations import Standing

# A list of strings with parameters that are integers or strings (RFC 9651, sections 3.1 to 3.3).
STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
ITEM = rf"{STRING}(?:;[a-z]+=(?:\d{{1,15}}|{STRING}))*"
LIST = re.compile(rf"{ITEM}(?:, {ITEM})*\Z")

limits = st.builds(
    Limit,
    st.sampled_from(("requests", "upload_bytes", "cost")),
    st.integers(1, LARGEST),
    st.sampled_from(("day", "week", "month")),
    operations=st.none() | st.text(max_size=10),
) | st.builds(Limit, st.sampled_from(("concurrency", "streams")), st.integers(1, LARGEST))


def test_nothing_is_said_of_no_limits():
    assert rate_fields([]) == []


@given(st.lists(st.builds(Standing, limits, st.integers(0, LARGEST), st.floats(0, 10**9)), min_size=1, max_size=5))
def test_fields_are_well_formed(standings):
    fields = dict(rate_fields(standings))
    assert set(fields) <= RATE_FIELDS
    for name in (b"ratelimit", b"ratelimit-policy"):
        assert LIST.match(fields[name].decode("ascii")), fields[name]
    for name in fields.keys() - {b"ratelimit", b"ratelimit-policy"}:
        assert fields[name].isdigit()


@pytest.mark.parametrize(
    ("limit", "policy", "left"),
    [
        (Limit("requests", 600, per="minute"), '"600 requests per minute";q=600;w=60', ";r=3;t=8"),
        (Limit("requests", 5, per="week"), '"5 requests per week";q=5;w=604800', ";r=3;t=8"),
        (Limit("streams", 9), '"9 live sessions";q=9;qu="streams"', ";r=3"),
        (Limit("upload_bytes", 9, per="hour"), '"9 uploaded bytes per hour";q=9;w=3600;qu="content-bytes"', ";r=3;t=8"),
        (Limit("cost", 9, per="month"), '"9 cost units per month";q=9;qu="cost"', ";r=3;t=8"),
        (
            Limit("requests", 9, per="day", operations='a"\\é'),
            '"9 requests per day for a\\"\\\\?";q=9;w=86400',
            ";r=3;t=8",
        ),
    ],
)
def test_each_kind_of_limit(limit, policy, left):
    fields = dict(rate_fields([Standing(limit, 3, 7.2)]))
    assert fields[b"ratelimit-policy"].decode() == policy
    assert fields[b"ratelimit"].decode() == policy.partition(";q=")[0] + left


def test_the_old_fields_tell_of_the_scarcest():
    day, at_once = Limit("requests", 1000, per="day"), Limit("concurrency", 4)
    assert dict(rate_fields([Standing(day, 900, 60), Standing(at_once, 1, 0)]))[b"x-ratelimit-limit"] == b"4"
    scarce = dict(rate_fields([Standing(day, 100, 60), Standing(at_once, 3, 0)]))
    assert scarce[b"x-ratelimit-remaining"] == b"100"
    assert scarce[b"x-ratelimit-reset"] == b"60"
