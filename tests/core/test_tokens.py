"""Tokens in header fields, subprotocols and queries, and their digests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import uuid
from urllib.parse import quote, urlencode

import pytest
from harness import token
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.keys import Secret
from keypool_asgi.core.tokens import (
    MAX_TOKEN_BYTES,
    NOT_FOR_SUBPROTOCOLS,
    NoToken,
    Presented,
    TokenDigester,
    chosen_subprotocol,
    presented_on_socket,
    presented_token,
    refusal_form,
    token_fault,
    travels_in_subprotocol,
)
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


@given(st.binary(max_size=8) | visible.map(str.encode))
def test_a_token_is_one_word_of_visible_ascii(text):
    expected = NoToken.EMPTY if not text else NoToken.MALFORMED
    assert token_fault(text) is (None if re.fullmatch(rb"[\x21-\x7e]+", text) else expected)


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


# On WebSocket upgrades

field_tokens = st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,60}", fullmatch=True).filter(
    lambda text: text.lower() != "bearer"
)
TEAM, OTHER = token("team-a"), token("team-b")


def on_socket(
    *pairs: tuple[str, str | bytes], offered: tuple[str, ...] = (), query: bytes = b""
) -> Presented | NoToken:
    return presented_on_socket(fields(*pairs), offered, query)


@given(field_tokens)
def test_a_socket_takes_a_token_in_every_place(text):
    in_field, in_url = Presented(Secret(text), in_url=False), Presented(Secret(text), in_url=True)
    subprotocol = (f"keypool-token.{text}",)
    assert on_socket(("authorization", text)) == in_field
    assert on_socket(("authorization", f"Bearer {text}")) == in_field
    assert on_socket(("x-api-key", text)) == in_field
    assert on_socket(offered=subprotocol) == in_field
    assert on_socket(offered=("keypool", f" keypool-token.{text} ", "chat")) == in_field
    assert on_socket(query=b"a=1&" + urlencode({"token": text}).encode()) == in_url
    assert on_socket(("authorization", text), ("x-api-key", text), offered=subprotocol * 2) == in_field


@given(tokens)
def test_a_query_has_any_token_by_either_spelling(text):
    expected = Presented(Secret(text), in_url=True)
    assert on_socket(query=b"token=" + quote(text, safe="").encode()) == expected
    assert on_socket(query=b"%74oke%6E=" + quote(text, safe="").encode() + b"&x=") == expected


def test_the_same_token_in_the_url_and_elsewhere_is_still_in_the_url():
    headers = ("authorization", TEAM)
    assert on_socket(headers, query=f"token={TEAM}".encode()) == Presented(Secret(TEAM), in_url=True)


@pytest.mark.parametrize(
    ("pairs", "offered", "query", "expected"),
    [
        ([], [], b"", NoToken.MISSING),
        ([], ["keypool", "chat"], b"tokens=a&Token=a&x=token", NoToken.MISSING),
        ([], ["keypool-token"], b"", NoToken.MISSING),
        ([], ["keypool-token."], b"", NoToken.EMPTY),
        ([], [], b"token=", NoToken.EMPTY),
        ([], [], b"token", NoToken.EMPTY),
        ([], ["keypool-token.a/b"], b"", NoToken.MALFORMED),
        ([], ["keypool-token.t\xe9"], b"", NoToken.MALFORMED),
        ([], [], b"token=a+b", NoToken.MALFORMED),
        ([], [], b"token=a%0d%0ab", NoToken.MALFORMED),
        ([], [], b"token=%ff", NoToken.MALFORMED),
        ([], [], b"token=" + b"x" * (MAX_TOKEN_BYTES + 1), NoToken.TOO_LONG),
        ([], ["keypool-token." + "x" * (MAX_TOKEN_BYTES + 1)], b"", NoToken.TOO_LONG),
        ([("authorization", TEAM)], [f"keypool-token.{OTHER}"], b"", NoToken.CONTRADICTING),
        ([("authorization", TEAM)], [], f"token={OTHER}".encode(), NoToken.CONTRADICTING),
        ([], [f"keypool-token.{TEAM}", f"keypool-token.{OTHER}"], b"", NoToken.CONTRADICTING),
        ([], [f"keypool-token.{TEAM}"], f"token={OTHER}".encode(), NoToken.CONTRADICTING),
        ([], [], f"token={TEAM}&token={OTHER}".encode(), NoToken.CONTRADICTING),
        ([("authorization", "Basic eA==")], [f"keypool-token.{TEAM}"], b"", NoToken.OTHER_SCHEME),
        ([("authorization", TEAM)], [], b"token=", NoToken.EMPTY),
        ([("authorization", TEAM)], ["keypool-token."], b"", NoToken.EMPTY),
    ],
)
def test_what_is_wrong_with_an_upgrade_is_told(pairs, offered, query, expected):
    assert on_socket(*pairs, offered=tuple(offered), query=query) is expected


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key"]), st.binary(max_size=30)), max_size=3),
    st.lists(st.text(max_size=20) | st.text(max_size=20).map("keypool-token.".__add__), max_size=3),
    st.binary(max_size=40) | st.binary(max_size=30).map(b"token=".__add__),
)
def test_an_upgrade_never_raises_whatever_comes(headers, offered, query):
    found = presented_on_socket(headers, offered, query)
    assert isinstance(found, NoToken) or token_fault(found.token.reveal().encode()) is None


@given(st.text(max_size=20).filter(lambda text: text == text.strip(" \t")))
def test_what_travels_in_a_subprotocol_arrives(text):
    found = on_socket(offered=(f"keypool-token.{text}",))
    assert travels_in_subprotocol(text) == isinstance(found, Presented)


def test_tokens_as_operators_make_them():
    assert travels_in_subprotocol(secrets.token_urlsafe(32))
    assert travels_in_subprotocol(str(uuid.uuid4()))
    assert not travels_in_subprotocol(base64.b64encode(b"\xff" * 31).decode())  # "/" and "="
    assert not travels_in_subprotocol("")
    assert NOT_FOR_SUBPROTOCOLS.endswith(".")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["chat"], None),
        (["keypool"], "keypool"),
        (["keypool-token.a"], "keypool-token.a"),
        (["keypool-token.a", "keypool"], "keypool"),
        (["chat", " keypool-token.a", "keypool "], "keypool"),
        (["chat", " keypool-token.a "], "keypool-token.a"),
        (["Keypool"], None),
    ],
)
def test_the_subprotocol_that_is_chosen(offered, chosen):
    assert chosen_subprotocol(offered) == chosen


SDK = "AssemblyAI/1.0 (sdk=Python/1.8.2 runtime_env=Python/3.11.7)"
LIVEKIT = "AssemblyAI/1.0 (integration=Livekit)"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    ("agent", "offered", "query", "form"),
    [
        (None, [], b"", "in_band"),  # the Node SDK
        ("", [], b"", "in_band"),
        (SDK, [], b"sample_rate=16000", "in_band"),
        (LIVEKIT, [], b"sample_rate=16000", "http"),
        ("AssemblyAI/1.0 (integration=Pipecat/1.14.0)", [], b"", "http"),
        ("Python/3.11 aiohttp/3.12", [], b"", "http"),
        (BROWSER, ["keypool", "keypool-token.a"], b"", "in_band"),
        (BROWSER, ["keypool-token.a"], b"", "in_band"),
        (BROWSER, [], b"token=a", "in_band"),
        (BROWSER, [], b"%74oken=a", "in_band"),
        (LIVEKIT, ["keypool-token.a"], b"", "in_band"),
        ("curl/8.5.0", ["chat"], b"", "http"),  # nothing could be chosen, so it would fail in any case
    ],
)
def test_the_form_of_a_refusal_is_the_one_that_the_caller_shows(agent, offered, query, form):
    headers = fields() if agent is None else fields(("user-agent", agent))
    assert refusal_form(headers, offered, query) == form


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
