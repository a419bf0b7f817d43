"""Limits as values: what they may be, their names, and what a caller reads about a denial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.limits import LARGEST, Charge, Denial, Kind, Limit, quota_exceeded, sentence
from keypool_asgi.errors import ConfigurationError, QuotaExceeded

RATES = ("second", "minute", "hour")
BUDGETS = ("day", "week", "month")
UNITS = ("requests", "upload_bytes", "audio_seconds", "stream_seconds", "llm_tokens", "tts_characters", "cost")

rates = st.builds(Limit, st.sampled_from(UNITS), st.integers(1, 10**10), st.sampled_from(RATES))
budgets = st.builds(
    Limit,
    st.sampled_from(UNITS),
    st.integers(1, 10**15),
    st.sampled_from(BUDGETS),
    time_zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York")),
    operations=st.sampled_from((None, "transcripts.*", ("llm.*", "speech.*"))),
)
held = st.builds(Limit, st.sampled_from(("concurrency", "streams")), st.integers(1, 100))


def charge(limit: Limit, amount: int = 1, subject: str = "team:a") -> Charge:
    return Charge(subject, limit, amount)


@pytest.mark.parametrize(
    ("unit", "amount", "per"),
    [
        ("tokens", 1, "minute"),
        ("requests", 1, "year"),
        ("requests", LARGEST + 1, "month"),
        ("requests", 10**12, "hour"),
        ("streams", 1, "second"),
        ("requests", 1, None),
        ("concurrency", 1, "minute"),
        ("requests", 0, "minute"),
        ("requests", -1, "minute"),
        ("requests", 1.5, "minute"),
        ("requests", True, "minute"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(unit, amount, per):
    with pytest.raises(ConfigurationError, match="Limit"):
        Limit(unit, amount, per)


def test_a_negative_charge_is_refused():
    with pytest.raises(ConfigurationError, match="Charge"):
        charge(Limit("concurrency", 1), -1)


@given(st.lists(rates | budgets | held, unique=True, max_size=20))
def test_labels_tell_limits_apart(limits):
    assert len({limit.label for limit in limits}) == len(limits)


def test_derived_fields_are_not_part_of_the_value():
    assert Limit("requests", 5, per="minute") == Limit("requests", 5, "minute")
    assert repr(Limit("requests", 5, per="minute")) == (
        "Limit(unit='requests', amount=5, per='minute', time_zone='UTC', operations=None)"
    )


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "", "../etc/passwd", 5])
def test_an_unknown_time_zone_is_refused(zone):
    with pytest.raises(ConfigurationError, match="time_zone"):
        Limit("requests", 1, per="day", time_zone=zone)


def test_a_time_zone_is_for_budgets():
    with pytest.raises(ConfigurationError, match="time_zone"):
        Limit("requests", 1, per="minute", time_zone="Europe/Berlin")


@given(rates)
def test_a_rate_stays_exact_as_a_double(limit):
    """Its tick is the finest of the three that keeps its capacity within 2**50."""
    assert limit.kind is Kind.RATE
    assert limit.capacity == limit.amount * limit.span <= LARGEST
    assert limit.tick in (1, 1000, 1_000_000)
    assert limit.tick == 1 or limit.capacity * 1000 > LARGEST


@given(rates | budgets | held)
def test_a_limit_is_made_anew_of_its_spec(limit):
    assert Limit.of(limit.spec) == limit
    assert Limit.of(limit.spec).name == limit.name


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_new_amount_keeps_the_counter_of_a_budget(one, another):
    """What has been used of a month is not forgotten when the operator changes the limit."""
    for unit, per in (("cost", "month"), ("requests", "day"), ("concurrency", None)):
        assert Limit(unit, one, per).name == Limit(unit, another, per).name


def test_names_tell_windows_zones_and_operations_apart():
    limits = [
        Limit("requests", 5, per="day"),
        Limit("requests", 5, per="week"),
        Limit("requests", 5, per="day", time_zone="Europe/Berlin"),
        Limit("requests", 5, per="day", operations="llm.*"),
        Limit("cost", 5, per="day"),
        Limit("requests", 5, per="hour"),
        Limit("requests", 6, per="hour"),
    ]
    assert len({limit.name for limit in limits}) == len(limits)


def test_operations_in_any_form_are_the_same():
    forms = ["llm.*", ["llm.*"], {"llm.*"}, ("llm.*", "llm.*")]
    assert len({Limit("requests", 5, per="day", operations=form) for form in forms}) == 1


# What the caller reads


@pytest.mark.parametrize(
    ("denial", "expected"),
    [
        (
            Denial(charge(Limit("requests", 600, per="minute")), 1.2),
            "Limit of 600 requests per minute is used up; it frees in 2 seconds.",
        ),
        (
            Denial(charge(Limit("requests", 1, per="second")), 0.0001),
            "Limit of 1 request per second is used up; it frees in 1 second.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="hour")), 119.5),
            "Limit of 2 requests per hour is used up; it frees in 2 minutes.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="day")), 119),
            "Limit of 2 requests per day is used up; it frees in 119 seconds.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="day")), 43_200),
            "Limit of 2 requests per day is used up; it frees in 12 hours.",
        ),
        (
            Denial(charge(Limit("requests", 2, per="day")), None),
            "Limit of 2 requests per day is used up; it frees later.",
        ),
        (
            Denial(charge(Limit("concurrency", 5)), None),
            "Limit of 5 concurrent requests is used up; it frees when one of them ends.",
        ),
        (
            Denial(charge(Limit("concurrency", 1)), None),
            "Limit of 1 concurrent request is used up; it frees when that one ends.",
        ),
        (
            Denial(charge(Limit("requests", 3, per="minute"), 5), None),
            "Limit of 3 requests per minute is too small for this request, which needs 5.",
        ),
    ],
)
def test_sentences(denial, expected):
    assert sentence(denial) == expected
    answer = quota_exceeded(denial)
    assert isinstance(answer, QuotaExceeded)
    assert (answer.sentence, answer.retry_after) == (expected, denial.retry_after)


def test_a_sentence_does_not_name_the_team():
    assert "team" not in sentence(Denial(charge(Limit("concurrency", 1), subject="team:secret-project"), None))
