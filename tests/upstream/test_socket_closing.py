"""What may be in a close frame (RFC 6455, sections 5.5.1 and 7.4)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.close_codes import may_be_sent
from keypool_asgi.core.sessions import Close
from keypool_asgi.upstream.sockets.closing import ViolationError, decode_close, encode_close

VALID = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
INVALID = [-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535, 65_536, 2**32]


@pytest.mark.parametrize("code", VALID)
def test_codes_that_are_sent(code: int) -> None:
    assert encode_close(Close(code, "why")) == code.to_bytes(2, "big") + b"why"
    assert decode_close(encode_close(Close(code, "wh\u00fd"))) == Close(code, "wh\u00fd")


@pytest.mark.parametrize("code", INVALID)
def test_codes_that_are_not(code: int) -> None:
    assert not may_be_sent(code)
    assert encode_close(Close(code, "why")) == b""
    if 0 <= code < 65_536:
        with pytest.raises(ViolationError) as caught:
            decode_close(code.to_bytes(2, "big"))
        assert caught.value.code == 1002


def test_no_code() -> None:
    assert decode_close(b"") == Close(1005)


def test_half_a_code() -> None:
    with pytest.raises(ViolationError) as caught:
        decode_close(b"\x03")
    assert caught.value.code == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"\xce\xba\xe1\xbd", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ab\xc0\xaf"])
def test_a_reason_that_is_not_utf8(reason: bytes) -> None:
    with pytest.raises(ViolationError) as caught:
        decode_close(b"\x03\xe8" + reason)
    assert caught.value.code == 1007


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("x" * 122 + "\u00e9", "x" * 122),
        ("x" * 121 + "\u20ac" + "y", "x" * 121),
        ("\U0001f600" * 31, "\U0001f600" * 30),
    ],
)
def test_a_long_reason_is_cut_between_characters(reason: str, kept: str) -> None:
    assert encode_close(Close(1000, reason)) == b"\x03\xe8" + kept.encode()


@settings(max_examples=100)
@given(code=st.integers(0, 70_000), reason=st.text(max_size=200))
def test_whatever_is_sent_can_be_read(code: int, reason: str) -> None:
    payload = encode_close(Close(code, reason))
    assert len(payload) <= 125
    read = decode_close(payload)
    assert read.code == (code if may_be_sent(code) else 1005)
    assert reason.startswith(read.reason)


def test_a_reason_that_cannot_be_encoded() -> None:
    assert encode_close(Close(1000, "a\ud800b")) == b"\x03\xe8a?b"
