"""Team tokens in header fields, and their digests."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.keys import Secret
from keypool_asgi.core.tokens import MAX_TOKEN_BYTES, NoToken, TokenDigester, presented_token, token_fault
from keypool_asgi.errors import ConfigurationError

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80)
# As a raw Authorization value, this one word means the scheme without a token.
tokens = visible.filter(lambda text: text.lower() != "bearer")


def fields(*pairs: tuple[str, str | bytes]) -> list[tuple[bytes, bytes]]:
    """Fields as a server hands them over, among others."""
    given = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in pairs]
    return [(b"host", b"example.com"), *given, (b"accept", b"*/*"), (b"x-api-keys", b"no"), (b"cookie", b"token=no")]


@pytest.fixture(params=["Bearer {}", "bearer {}", "BEARER   {}  ", " bEaReR {}", "{}", " {}\t"])
def authorization(request):
    """Each way to write a token in Authorization."""
    return request.param


def test_every_form_of_authorization(authorization):
    headers = fields(("authorization", authorization.format("tt-kp-1.a/b+c=~")))
    assert presented_token(headers) == Secret("tt-kp-1.a/b+c=~")


@given(tokens)
def test_any_visible_token_comes_through_every_form(text):
    expected = Secret(text)
    assert presented_token(fields(("authorization", f"Bearer {text}"))) == expected
    assert presented_token(fields(("authorization", text))) == expected
    assert presented_token(fields(("x-api-key", text))) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (fields(), NoToken.MISSING),
        ([], NoToken.MISSING),
        (fields(("authorization", "")), NoToken.EMPTY),
        (fields(("authorization", " \t ")), NoToken.EMPTY),
        (fields(("authorization", "Bearer")), NoToken.EMPTY),
        (fields(("authorization", "bearer  ")), NoToken.EMPTY),
        (fields(("x-api-key", "")), NoToken.EMPTY),
        (fields(("authorization", "Basic dXNlcjpwYXNz")), NoToken.OTHER_SCHEME),
        (fields(("authorization", "Token abc")), NoToken.OTHER_SCHEME),
        (fields(("authorization", 'Digest username="a", realm="b"')), NoToken.OTHER_SCHEME),
        (fields(("authorization", "Bearer a b")), NoToken.MALFORMED),
        (fields(("authorization", "Bearer a, Bearer a")), NoToken.MALFORMED),
        (fields(("authorization", "Bearer\ta")), NoToken.MALFORMED),
        (fields(("authorization", "Bearer \ta")), NoToken.MALFORMED),
        (fields(("authorization", b"Bearer a\x00b")), NoToken.MALFORMED),
        (fields(("authorization", b"a\r\nx: y")), NoToken.OTHER_SCHEME),
        (fields(("authorization", b"a\n")), NoToken.MALFORMED),
        (fields(("authorization", b"Bearer a\n")), NoToken.MALFORMED),
        (fields(("authorization", "Bearer tökén")), NoToken.MALFORMED),
        (fields(("authorization", b"Bearer \xff")), NoToken.MALFORMED),
        (fields(("authorization", b"a\x7f")), NoToken.MALFORMED),
        (fields(("x-api-key", "Bearer a")), NoToken.MALFORMED),
        (fields(("x-api-key", "a b")), NoToken.MALFORMED),
        (fields(("authorization", "x" * (MAX_TOKEN_BYTES + 1))), NoToken.TOO_LONG),
        (fields(("authorization", "Bearer " + "x" * (MAX_TOKEN_BYTES + 1))), NoToken.TOO_LONG),
        (fields(("authorization", "Bearer a"), ("x-api-key", "b")), NoToken.CONTRADICTING),
        (fields(("authorization", "Bearer a"), ("authorization", "Bearer b")), NoToken.CONTRADICTING),
        (fields(("x-api-key", "a"), ("x-api-key", "A")), NoToken.CONTRADICTING),
        (fields(("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", "a")), NoToken.OTHER_SCHEME),
        (fields(("x-api-key", "a"), ("authorization", "")), NoToken.EMPTY),
    ],
)
def test_what_is_wrong_is_told(headers, expected):
    assert presented_token(headers) is expected


def test_the_longest_token():
    assert presented_token(fields(("authorization", "x" * MAX_TOKEN_BYTES))) == Secret("x" * MAX_TOKEN_BYTES)


def test_the_same_token_twice_is_one_token():
    headers = fields(("authorization", "Bearer a"), ("x-api-key", "a"), ("authorization", "a"))
    assert presented_token(headers) == Secret("a")


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"host"]), st.binary(max_size=30))))
def test_never_raises_whatever_comes(headers):
    found = presented_token(headers)
    assert isinstance(found, NoToken) or token_fault(found.reveal().encode()) is None


def test_only_a_missing_token_is_absent():
    assert [fault for fault in NoToken if fault.absent] == [NoToken.MISSING]


@pytest.mark.parametrize("fault", NoToken)
def test_sentences_are_sentences(fault):
    assert fault.sentence[0].isupper()
    assert fault.sentence.endswith(".")
    assert fault.sentence.isascii()


def test_a_found_token_does_not_show_itself():
    assert "tt-kp-1" not in repr(presented_token(fields(("authorization", "tt-kp-1"))))


# Digests


def test_digests_are_the_standard_ones():
    assert TokenDigester().digest("abc") == hashlib.sha256(b"abc").digest()
    for pepper in ("pépper", "pépper".encode()):
        assert TokenDigester(pepper).digest("abc") == hmac.digest("pépper".encode(), b"abc", "sha256")


@given(st.text(), st.none() | st.binary(min_size=1) | st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_text_has_a_digest_that_matches_it_alone(text, pepper):
    digester = TokenDigester(pepper)
    digest = digester.digest(text)
    assert digest == digester.digest(text)
    assert digester.matches(text, digest)
    assert not digester.matches(text + "x", digest)
    assert not TokenDigester(b"another").matches(text, digest)


def test_a_digester_does_not_show_its_pepper():
    assert "pepper" not in repr(TokenDigester("pepper"))


@pytest.mark.parametrize("pepper", ["", b"", 5, ["pepper"]])
def test_a_pepper_that_makes_no_sense_is_refused(pepper):
    with pytest.raises(ConfigurationError, match="pepper"):
        TokenDigester(pepper)
