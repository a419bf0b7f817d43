"""Usage records as values: as text and back, what they add to sums, selections, sessions' figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.metering import Metering
from keypool_asgi.core.usage import (
    DIMENSIONS,
    HOUR,
    Selection,
    Slice,
    UsageRecord,
    correction_of,
    picked,
    record_of,
    session_used,
    slices,
    summed,
    text_of,
)
from keypool_asgi.errors import ConfigurationError

RECORD = UsageRecord(
    id="r1",
    request_id="r1",
    team="team-a",
    operation="llm.chat",
    key="k1",
    account="a",
    project="p",
    started=7199.0,
    ended=7200.5,
    used={"requests": 1, "llm_tokens": 20},
    response_bytes=7,
)

SESSION = Metering(session="stream_seconds", closing={"session_duration_seconds": "stream_seconds"})
SPEECH = Metering(units=("tts_characters",), closing={"total_input_char_length": "tts_characters"})

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
amounts = st.dictionaries(st.sampled_from(["requests", "cost", "audio_seconds"]), st.integers(0, 2**50), max_size=3)
records = st.builds(
    UsageRecord,
    id=texts,
    request_id=texts,
    team=texts,
    operation=texts,
    key=st.none() | texts,
    account=st.none() | texts,
    project=st.none() | texts,
    started=st.floats(0, 2e9),
    ended=st.floats(0, 2e9),
    status=st.none() | st.integers(100, 599),
    close_code=st.none() | st.integers(1000, 4999),
    used=amounts,
    estimated=st.booleans(),
    request_bytes=st.integers(0, 2**41),
    response_bytes=st.integers(0, 2**41),
    clocked_seconds=st.none() | st.floats(0, 1e5),
    corrects=st.none() | texts,
)


@given(record=records)
@settings(max_examples=60)
def test_a_record_comes_back_from_its_text(record):
    assert record_of(text_of(record)) == record
    assert record_of(text_of(record).encode()) == record
    assert text_of(record._replace()) == text_of(record)


def test_a_record_is_not_changed():
    with pytest.raises(AttributeError):
        RECORD.team = "team-b"
    bare = UsageRecord(id="r", request_id="r", team="t", operation="o", started=0.0, ended=0.0)
    with pytest.raises(TypeError):
        bare.used["requests"] = 1
    assert record_of(text_of(bare)) == bare


def test_what_a_later_version_adds_is_left_out():
    text = text_of(RECORD)[:-1] + ',"mood":"good"}'
    assert record_of(text) == RECORD


def test_what_an_earlier_version_left_out_has_its_default():
    assert record_of('{"id":"a","request_id":"a","team":"t","operation":"o","started":1.0,"ended":2.0}').used == {}


@given(record=records)
@settings(max_examples=60)
def test_slices_have_every_amount_of_the_record_once(record):
    parts = slices(record)
    expected = {**record.used, "request_bytes": record.request_bytes, "response_bytes": record.response_bytes}
    assert {one.unit: amount for one, amount in parts.items()} == {unit: n for unit, n in expected.items() if n}
    assert all(one.hour <= record.ended < one.hour + HOUR and one.hour % HOUR == 0 for one in parts)


def test_a_record_counts_in_the_hour_of_its_end():
    assert {one.hour for one in slices(RECORD)} == {7200}


@given(some=st.lists(records, max_size=12), by=st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=3))
@settings(max_examples=60)
def test_sums_lose_nothing_whatever_they_are_by(some, by):
    parts = [pair for record in some for pair in slices(record).items()]
    total: dict[str, int] = {}
    for one in summed(parts, by):
        assert len(one.group) == len(by)
        for unit, amount in one.used.items():
            total[unit] = total.get(unit, 0) + amount
    assert total == {unit: sum(n for one, n in parts if one.unit == unit) for unit in {one.unit for one, _ in parts}}


def test_days_are_of_utc():
    one = Slice(86400 + 5 * HOUR, "t", "o", "k", "a", "p", "requests")
    assert [one.part("day"), one.part("hour"), one.part("team")] == ["86400", str(86400 + 5 * HOUR), "t"]


def test_there_is_no_other_dimension():
    with pytest.raises(ConfigurationError, match="no 'colour' to sum by; there are team, operation"):
        summed([], ["colour"])


def test_a_selection_takes_from_since_and_leaves_out_until():
    selection = Selection(since=10.0, until=20.0)
    assert [selection.has_time(time) for time in (9.9, 10.0, 19.9, 20.0)] == [False, True, True, False]
    assert Selection(key="k2").has(RECORD) is False
    assert Selection(team="team-a", operation="llm.chat", key="k1").has(RECORD)


def test_hours_of_a_selection_are_whole():
    assert Selection(since=3600.0, until=7200).hours() == (3600, 7200)
    assert Selection().hours() == (None, None)
    with pytest.raises(ConfigurationError, match=r"since cannot be 3600\.5"):
        Selection(since=3600.5).hours()


def test_a_correction_always_has_the_same_id():
    assert correction_of("transcripts.create:x") == correction_of("transcripts.create:x") != "transcripts.create:x"


@given(seconds=st.floats(0, 20_000))
@settings(max_examples=30)
def test_a_session_without_figures_counts_by_our_clock_rounded_up(seconds):
    assert session_used(SESSION, {}, seconds) == ({"stream_seconds": math.ceil(seconds)}, False)


def test_upstreams_figure_of_a_session_counts():
    figures = {"session_duration_seconds": 61, "audio_duration_seconds": 5}
    assert session_used(SESSION, figures, 59.2) == ({"stream_seconds": 61}, True)


def test_a_session_that_counts_characters_has_nothing_but_upstreams_word():
    assert session_used(SPEECH, {"total_input_char_length": 40}, 3.0) == ({"tts_characters": 40}, True)
    assert session_used(SPEECH, {}, 3.0) == ({}, False)


def test_members_are_picked_by_their_paths():
    found = {"a": {"b": 1, "c": [1]}, "d": None, "e": {"f": {}}}
    assert picked(found, ["a.b", "a.c", "a.x", "d", "e", "e.f.g", "a.b.c"]) == {"a.b": 1, "d": None}
