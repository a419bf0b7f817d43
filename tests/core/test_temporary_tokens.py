"""Temporary tokens: sealed so that nothing of the team token shows, and nothing of them can be changed."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from harness import token
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.keys import Secret
from keypool_asgi.core.temporary_tokens import NONCE_BYTES, Grant, TokenIssuer, open_grant, seal_grant
from keypool_asgi.core.tokens import MAX_TOKEN_BYTES, token_fault, travels_in_subprotocol
from keypool_asgi.errors import BadRequest, ConfigurationError

SECRET, NEWER = "correct-horse-battery-staple-0123456789", b"\x00\x01\x02\x03\x04\x05\x06\x07" * 4
TEAM = token("team-a")
NONCE = bytes(range(NONCE_BYTES))

team_tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=120)
nonces = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)
grants = st.builds(
    Grant,
    team_token=team_tokens.map(Secret),
    service=st.sampled_from(["streaming", "agents", "tts", ""]),
    expires=st.floats(0, 1e11) | st.integers(0, 10**11).map(float),
    max_session_seconds=st.integers(60, 10_800),
)
recorded = st.builds(
    Grant,
    team_token=team_tokens.map(Secret),
    service=st.sampled_from(["streaming", "agents", "tts", ""]),
    expires=st.floats(0, 1e11),
    max_session_seconds=st.integers(60, 10_800),
    key_id=st.text(min_size=1, max_size=12),
)


def grant(**changed: Any) -> Grant:
    made: dict[str, Any] = {"team_token": Secret(TEAM), "service": "streaming", "expires": 1_800_000_060.5}
    return Grant(**(made | {"max_session_seconds": 120} | changed))


# Those that we make


@given(grants, nonces)
def test_a_token_stands_for_what_it_was_made_for(made, nonce):
    issuer = TokenIssuer(SECRET)
    assert issuer.read(issuer.issue(made, nonce)) == made


@given(grants, nonces)
def test_a_token_may_stand_in_a_field_a_subprotocol_and_a_url(made, nonce):
    text = TokenIssuer(SECRET).issue(made, nonce)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", text)
    assert travels_in_subprotocol(text)
    assert token_fault(text.encode()) is None


@settings(max_examples=25)
@given(grants, nonces)
def test_no_byte_of_a_token_can_be_changed(made, nonce):
    issuer = TokenIssuer(SECRET)
    text = issuer.issue(made, nonce)
    for place, letter in enumerate(text):
        for other in {"A", "B", "Q", "_", "-", "=", "."} - {letter}:
            assert issuer.read(text[:place] + other + text[place + 1 :]) is None


def test_no_bit_of_a_token_can_be_changed_nor_its_end_be_left_out():
    issuer = TokenIssuer(SECRET)
    text = issuer.issue(grant(), NONCE)
    prefix, _, tail = text.partition(".")
    data = base64.urlsafe_b64decode(tail + "=" * (-len(tail) % 4))
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        spelled = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
        assert issuer.read(f"{prefix}.{spelled}") is None
    for length in range(len(text)):
        assert issuer.read(text[:length]) is None
    for more in ("A", "AAAA", "=", " ", "\n", ".", "é"):
        assert issuer.read(text + more) is None
    assert issuer.read(text) == grant()


@given(st.text(max_size=80) | st.text(max_size=80).map("kp1.".__add__))
def test_reading_never_raises_whatever_comes(text):
    assert TokenIssuer(SECRET).read(text) is None
    assert open_grant("some-token", text) is None


@given(st.binary(max_size=120))
def test_reading_never_raises_whatever_bytes_come(data):
    text = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert TokenIssuer(SECRET).read("kp1." + text) is None


def test_a_token_made_under_another_secret_is_nobodys():
    text = TokenIssuer(SECRET).issue(grant(), NONCE)
    assert TokenIssuer(NEWER).read(text) is None
    assert TokenIssuer(SECRET.upper()).read(text) is None


def test_the_first_secret_makes_and_all_of_them_read():
    before, both, after = TokenIssuer(SECRET), TokenIssuer([NEWER, SECRET]), TokenIssuer([NEWER])
    old, new = before.issue(grant(), NONCE), both.issue(grant(), NONCE)
    assert both.read(old) == both.read(new) == after.read(new) == grant()
    assert before.read(new) is None
    assert after.read(old) is None


def test_nothing_of_the_team_token_shows():
    text = TokenIssuer(SECRET).issue(grant(), NONCE)
    data = base64.urlsafe_b64decode(text.partition(".")[2] + "==")
    for start in range(len(TEAM) - 3):
        piece = TEAM[start : start + 4].encode()
        assert piece not in data
        assert piece.decode() not in text
    assert b"streaming" not in data


def test_two_tokens_of_one_grant_have_nothing_in_common():
    issuer = TokenIssuer(SECRET)
    one, two = (issuer.issue(grant(), bytes([number]) * NONCE_BYTES) for number in (1, 2))
    same = sum(a == b for a, b in zip(one, two, strict=True))
    assert same < len(one) / 4
    assert issuer.issue(grant(), NONCE) == issuer.issue(grant(), NONCE)


def test_expired_tokens_are_still_read_for_an_honest_answer():
    issuer = TokenIssuer(SECRET)
    assert issuer.read(issuer.issue(grant(expires=0.0), NONCE)) == grant(expires=0.0)


def test_a_team_token_that_is_too_long_is_refused():
    issuer = TokenIssuer(SECRET)
    longest = grant(team_token=Secret("x" * 2900))
    assert len(issuer.issue(longest, NONCE)) <= MAX_TOKEN_BYTES
    with pytest.raises(BadRequest, match="too long"):
        issuer.issue(grant(team_token=Secret("x" * MAX_TOKEN_BYTES)), NONCE)


@pytest.mark.parametrize(
    "secrets",
    ["", b"", [], "short", "x" * 64, "0123456" * 9, b"\x00" * 64, [SECRET, "short"], [None], [SECRET, 5], "y" * 31],
)
def test_a_secret_that_could_be_guessed_is_refused(secrets):
    with pytest.raises(ConfigurationError, match="streaming_token_secret") as caught:
        TokenIssuer(secrets)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("secrets", ["0123456789abcdef" * 2, SECRET, NEWER, (NEWER, SECRET), "pässwörter-" * 4])
def test_secrets_that_do(secrets):
    issuer = TokenIssuer(secrets)
    assert issuer.read(issuer.issue(grant(), NONCE)) == grant()
    assert "0123" not in repr(issuer)


def test_a_grant_does_not_show_its_team_token():
    assert TEAM not in repr(grant())


# Those that AssemblyAI makes


@given(recorded, st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60))
def test_what_was_sealed_under_a_token_opens_with_it_alone(made, text):
    summary = seal_grant(text, made)
    assert open_grant(text, summary) == made
    assert open_grant(text + "x", summary) is None
    assert open_grant(text[:-1], summary) is None


def test_a_record_is_a_json_object_that_shows_no_token():
    summary = seal_grant("temporary-token-1", grant(key_id="k1"))
    assert set(json.loads(summary)) == {"grant", "sealed"}
    assert "temporary-token-1" not in summary
    sealed = json.loads(summary)["sealed"]
    data = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    assert not any(TEAM[start : start + 4].encode() in data for start in range(len(TEAM) - 3))
    assert TEAM not in summary


@pytest.mark.parametrize(
    "changed",
    [
        {"service": "agents"},
        {"expires": 1_900_000_000.0},
        {"max_session_seconds": 10_800},
        {"key_id": "k2"},
    ],
)
def test_nobody_who_can_write_to_the_store_can_change_a_grant(changed):
    """The sealed part of one record beside the terms of another."""
    one = json.loads(seal_grant("temporary-token-1", grant(key_id="k1")))
    other = json.loads(seal_grant("temporary-token-1", grant(**({"key_id": "k1"} | changed))))
    for mixed in ({**one, "grant": other["grant"]}, {**one, "sealed": other["sealed"]}):
        assert open_grant("temporary-token-1", json.dumps(mixed)) is None


@pytest.mark.parametrize(
    "summary",
    [
        "",
        "{}",
        "[]",
        "null",
        "5",
        "{",
        '{"grant": 5, "sealed": "AAAA"}',
        '{"grant": [1, 2, 3, 4], "sealed": 5}',
        "[" * 10**5,
    ],
)
def test_what_is_no_such_record_opens_nothing(summary):
    assert open_grant("temporary-token-1", summary) is None
