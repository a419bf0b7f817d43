"""The operator's price table."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.prices import NO_PRICES, Price, Prices
from keypool_asgi.errors import ConfigurationError

TABLE = Prices(
    {
        "llm.chat@claude-*": {"llm_tokens": Price(9)},
        "llm.chat@gpt-*": {"llm_tokens": Price(5)},
        "llm.*": {"llm_tokens": Price(3), "requests": Price(100)},
        "sync.transcribe": {"audio_seconds": Price(300_000, per=3600)},
    }
)


@pytest.mark.parametrize(
    ("operation", "used", "model", "cost"),
    [
        ("llm.chat", {"llm_tokens": 10, "requests": 1}, "claude-sonnet-5", 90),
        ("llm.chat", {"llm_tokens": 10, "requests": 1}, "gpt-5", 50),
        ("llm.chat", {"llm_tokens": 10, "requests": 1}, "gemini-3-pro", 130),
        ("llm.chat", {"llm_tokens": 10, "requests": 1}, None, 130),  # the dearest that it can be
        ("llm.chat", {"llm_tokens": 1000, "requests": 1}, None, 9000),
        ("llm.understanding", {"llm_tokens": 10}, "claude-sonnet-5", 30),
        ("sync.transcribe", {"audio_seconds": 3600}, None, 300_000),
        ("sync.transcribe", {"audio_seconds": 1}, None, 84),  # 83.3, rounded up
        ("sync.transcribe", {"upload_bytes": 10**9}, None, 0),
        ("voices.list", {"requests": 1}, None, 0),
    ],
)
def test_the_first_row_that_fits_counts(operation, used, model, cost):
    assert TABLE.cost(operation, used, model) == cost


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**6))
def test_a_price_is_rounded_up_once(amount, micros, per):
    exact = Fraction(amount * micros, per)
    assert 0 <= Price(micros, per).of(amount) - exact < 1


def test_says_what_has_a_price():
    assert TABLE.has("llm.chat", ("llm_tokens",))
    assert not TABLE.has("llm.chat", ("audio_seconds",))
    assert not NO_PRICES.has("llm.chat", ("llm_tokens",))
    assert NO_PRICES.cost("llm.chat", {"llm_tokens": 5}) == 0


@pytest.mark.parametrize("wrong", [(-1, 1), (1, 0), (1.5, 1), (True, 1), ("1", 1), (1, 0.5)])
def test_a_price_is_in_whole_numbers(wrong):
    with pytest.raises(ConfigurationError, match="Price"):
        Price(*wrong)


@pytest.mark.parametrize("row", [{"cost": Price(1)}, {"concurrency": Price(1)}, {"tokens": Price(1)}, {"requests": 5}])
def test_a_row_that_makes_no_sense_is_refused(row):
    with pytest.raises(ConfigurationError, match=r"prices\['llm\.\*'\]"):
        Prices({"llm.*": row})
