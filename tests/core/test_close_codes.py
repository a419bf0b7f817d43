"""Close codes: what may stand in a close frame, and how one side's end is told to the other (RFC 6455, section 7.4)."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close as OnTheWire

from keypool_asgi.core.close_codes import (
    DRAINING,
    IDLE,
    REASON_BYTES,
    TOO_LONG,
    for_caller,
    for_upstream,
    may_be_sent,
    refusal_code,
    shortened,
)
from keypool_asgi.core.sessions import Close

NEVER_SENT = (1004, 1005, 1006, 1015)
SAID_BY_UPSTREAM = (1000, 1008, 1009, 1011, 1012, 1013, 3005, 3006, 3007, 3008, 3009, 3010, 3011, 3014, 4001, 4031)

codes = st.integers(min_value=0, max_value=65_535) | st.sampled_from([*NEVER_SENT, *SAID_BY_UPSTREAM])
reasons = st.text(st.characters(codec=None), max_size=200) | st.text("é\U0001f600x", min_size=30, max_size=140)
closes = st.builds(Close, codes, reasons)


@pytest.mark.parametrize("code", [0, 999, *NEVER_SENT, 1016, 1999, 2000, 2999, 5000, 65_535])
def test_codes_that_no_close_frame_may_carry(code) -> None:
    assert not may_be_sent(code)


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999, *SAID_BY_UPSTREAM])
def test_codes_that_a_close_frame_may_carry(code) -> None:
    assert may_be_sent(code)


@given(closes)
def test_whatever_ended_a_session_can_be_told_on_the_wire(close) -> None:
    for told in (for_caller(close), for_upstream(close)):
        assert may_be_sent(told.code)
        # The library that most servers send with refuses what RFC 6455 forbids.
        assert OnTheWire(told.code, told.reason).serialize()[:2] == struct.pack("!H", told.code)
        assert len(told.reason.encode()) <= REASON_BYTES


@given(closes.filter(lambda close: may_be_sent(close.code)))
def test_what_can_be_said_is_said_as_it_came(close) -> None:
    as_it_came = Close(close.code, shortened(close.reason))
    assert for_caller(close) == for_upstream(close) == as_it_came


def test_an_empty_close_frame_is_a_normal_end() -> None:
    assert for_caller(Close(1005)) == for_upstream(Close(1005)) == Close(1000)


def test_a_connection_that_broke_is_an_error_to_the_caller_and_says_how() -> None:
    assert for_caller(Close(1006, "the connection broke off")) == Close(1011, "the connection broke off")
    assert for_caller(Close(1006)).reason, "some reason is always given"


@pytest.mark.parametrize("code", [1006, 1015, 999, 5000])
def test_a_caller_that_vanished_is_going_away(code) -> None:
    assert for_upstream(Close(code, "not for upstream")) == Close(1001)


# Reasons


@given(reasons)
def test_a_reason_is_cut_to_what_fits_and_never_within_a_character(reason) -> None:
    cut = shortened(reason)
    sound = reason.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written: it becomes "?"
    assert sound.startswith(cut)
    assert len(cut.encode()) <= REASON_BYTES
    if cut != sound:
        assert len(sound[: len(cut) + 1].encode()) > REASON_BYTES, "one more character would have fitted"


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 123, 123),
        ("x" * 124, 123),
        ("é" * 62, 61),
        ("x" + "é" * 61, 62),
        ("\u20ac" * 42, 41),
        ("\U0001f600" * 31, 30),
        ("", 0),
    ],
)
def test_where_a_reason_is_cut(reason, kept) -> None:
    assert shortened(reason) == reason[:kept]


@pytest.mark.parametrize("reason", ["\ud800", "a\udfffb", "\udc80" * 200, json.loads('"\\ud83d"')])
def test_a_lone_surrogate_in_a_reason_can_be_sent(reason) -> None:
    assert shortened(reason).encode()
    assert "?" in shortened(reason)


# Our own


def test_our_own_closes_can_be_sent_as_they_are() -> None:
    for close in (DRAINING, IDLE, TOO_LONG):
        assert for_caller(close) == close
    assert len({close.code for close in (DRAINING, IDLE, TOO_LONG)}) == 3


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 4001), (401, 4001), (403, 4001), (404, 4001), (410, 4001), (429, 4002), (500, 1013), (503, 1013)],
)
def test_codes_of_refusals(status, code) -> None:
    """Final ones for what a repeat cannot cure, 1013 for what it can: the SDK for Node repeats only that."""
    assert refusal_code(status) == code


@given(st.integers(min_value=400, max_value=599))
def test_every_refusal_has_a_code_that_can_be_sent(status) -> None:
    assert may_be_sent(refusal_code(status))
