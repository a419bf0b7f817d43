"""Which header fields and query parameters cross the proxy (invariant I2; RFC 9110, section 7.6.1)."""

from __future__ import annotations

import pytest
from harness import token
from hypothesis import example, given
from hypothesis import strategies as st

from keypool_asgi.core.headers import Framing, downstream_fields, forwarded_query, framing_of, upstream_fields
from keypool_asgi.errors import BadRequest

TOKEN = token("team-a").encode()
HOP_BY_HOP = [
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
]
SECRETS = [b"authorization", b"cookie", b"x-api-key"]
ABOUT_THE_CALLER = [b"forwarded", b"x-forwarded-for", b"x-real-ip", b"origin", b"referer", b"via", b"host"]
PLAIN = [b"content-type", b"accept", b"x-aai-model", b"assemblyai-version", b"x-secret", b"x-other", b"user-agent"]

names = st.sampled_from(HOP_BY_HOP + SECRETS + ABOUT_THE_CALLER + PLAIN) | st.from_regex(
    rb"[a-z0-9-]{1,12}", fullmatch=True
)
plain_values = st.binary(max_size=12).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))
values = plain_values | plain_values.map(lambda value: value[:6] + TOKEN + value[6:])
spelled = st.one_of(names, names.map(bytes.upper), names.map(lambda name: b" " + name.title() + b"\t"))
connections = st.tuples(st.just(b"connection"), st.lists(spelled, max_size=4).map(b",".join))
fields = st.lists(st.tuples(names, values) | connections, max_size=20)


def named_by_connection(headers: list[tuple[bytes, bytes]]) -> set[bytes]:
    listed = b",".join(value for name, value in headers if name == b"connection")
    return {option.strip(b" \t").lower() for option in listed.split(b",")}


def is_subsequence(part: list[tuple[bytes, bytes]], whole: list[tuple[bytes, bytes]]) -> bool:
    rest = iter(whole)
    return all(field in rest for field in part)


@given(fields)
@example([(b"connection", b"x-secret, keep-alive"), (b"x-secret", b"1"), (b"x-other", b"2"), (b"x-other", b"1")])
@example([(b"accept-encoding", b"gzip"), (b"connection", b"keep-alive"), (b"x-other", b"1")])
def test_what_goes_upstream(headers: list[tuple[bytes, bytes]]) -> None:
    passed = upstream_fields(headers, token=TOKEN)
    assert is_subsequence(passed, headers), "order and duplicates are kept, and nothing is made up"
    banned = {*HOP_BY_HOP, *SECRETS, *ABOUT_THE_CALLER, b"content-length", b"accept-encoding"}
    banned |= named_by_connection(headers)
    assert not [name for name, _ in passed if name in banned]
    assert not [value for _, value in passed if TOKEN in value]
    for name in set(PLAIN) - banned:
        expected = [value for other, value in headers if other == name and TOKEN not in value]
        assert [value for other, value in passed if other == name] == expected


@given(fields, st.sampled_from([200, 204, 206, 304, 401, 500]))
def test_what_goes_to_the_caller(headers: list[tuple[bytes, bytes]], status: int) -> None:
    given_case = [(name.title(), value) for name, value in headers]
    passed = downstream_fields(status, given_case)
    assert is_subsequence(passed, headers), "order and duplicates are kept; names are in lower case"
    banned = set(HOP_BY_HOP) | named_by_connection(headers)
    assert not [name for name, _ in passed if name in banned]
    for name in set(PLAIN) - banned:
        assert [value for other, value in passed if other == name] == [
            value for other, value in headers if other == name
        ]


def test_a_204_has_no_length_and_a_304_keeps_it() -> None:
    length = [(b"Content-Length", b"4")]
    assert downstream_fields(204, length) == []
    assert downstream_fields(304, length) == [(b"content-length", b"4")]


@pytest.mark.parametrize(
    "name", [b"Date", b"Server", b"Alt-Svc", b"Clear-Site-Data", b"NEL", b"Report-To", b"Strict-Transport-Security"]
)
def test_what_speaks_for_an_origin_stays_upstream(name: bytes) -> None:
    assert downstream_fields(200, [(name, b"x"), (b"ETag", b"y")]) == [(b"etag", b"y")]


def test_a_token_in_a_fields_name_does_not_pass() -> None:
    assert upstream_fields([(b"x-" + TOKEN, b"1"), (b"x-a", b"2")], token=TOKEN) == [(b"x-a", b"2")]


# Queries

NAMES = st.sampled_from([b"limit", b"token", b"TOKEN", b"t%6Fken", b"api_key", b"apikey", b"x", b"to+ken"])
TEXTS = st.sampled_from(
    [b"", b"1", b"a%20b", b"%", b"%zz", b"\xc3\xa9", TOKEN, TOKEN.replace(b"-", b"%2D"), b"a" + TOKEN]
)
PARAMETERS = st.tuples(NAMES, TEXTS).map(b"=".join) | NAMES | st.just(TOKEN) | st.just(b"a" + TOKEN + b"=1")


@given(st.lists(PARAMETERS, max_size=8))
def test_queries(parameters: list[bytes]) -> None:
    from urllib.parse import unquote_to_bytes

    passed = forwarded_query(b"&".join(parameters), TOKEN)
    assert TOKEN not in passed
    assert TOKEN not in unquote_to_bytes(passed)

    def stays(parameter: bytes) -> bool:
        name = unquote_to_bytes(parameter.split(b"=")[0]).lower()
        return name not in (b"token", b"api_key", b"apikey") and TOKEN not in unquote_to_bytes(parameter)

    assert passed == b"&".join(parameter for parameter in parameters if stays(parameter))


@pytest.mark.parametrize("odd", [b"a=b", b"a+b", b"a%41", b"abc=="])
def test_tokens_of_odd_characters_do_not_pass_in_a_query(odd: bytes) -> None:
    for query in (odd, b"x=" + odd, b"limit=1&y=" + odd, odd + b"=1"):
        assert odd not in forwarded_query(query, odd)


# Framing

CL, TE = b"content-length", b"transfer-encoding"
CHUNKED, NOTHING = Framing(None, chunked=True), Framing(0, chunked=False)


@pytest.mark.parametrize(
    ("version", "method", "headers", "expected"),
    [
        ("1.1", "GET", [], NOTHING),
        ("1.1", "POST", [], NOTHING),
        ("1.1", "POST", [(CL, b"0")], NOTHING),
        ("1.1", "POST", [(CL, b"5")], Framing(5, chunked=False)),
        ("1.1", "GET", [(CL, b" 5 ")], Framing(5, chunked=False)),
        ("1.1", "POST", [(CL, b"5"), (CL, b"5")], Framing(5, chunked=False)),
        ("1.1", "POST", [(TE, b"Chunked")], CHUNKED),
        ("2", "GET", [], NOTHING),
        ("2", "POST", [], CHUNKED),
        ("2", "PUT", [(CL, b"7")], Framing(7, chunked=False)),
    ],
)
def test_how_a_body_is_delimited(
    version: str, method: str, headers: list[tuple[bytes, bytes]], expected: Framing
) -> None:
    assert framing_of(method, version, headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [(CL, b"5"), (CL, b"6")],
        [(CL, b"5"), (TE, b"chunked")],
        [(CL, b"5, 5")],
        [(CL, b"+5")],
        [(CL, b"-5")],
        [(CL, b"0x5")],
        [(CL, b"")],
        [(CL, "\u0665".encode())],
        [(CL, b"9" * 19)],
        [(TE, b"gzip, chunked")],
        [(TE, b"identity")],
        [(TE, b"chunked"), (TE, b"chunked")],
        [(b"host", b"a"), (b"host", b"b")],
        [(b"host", b"a"), (b"host", b"a")],
    ],
)
def test_what_two_servers_could_read_differently_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadRequest):
        framing_of("POST", "1.1", headers)
