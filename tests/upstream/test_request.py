"""RFC 9112, sections 3 and 6: what goes out is one request, and says so clearly."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keypool_asgi.core.messages import Headers, Origin, RequestHead
from keypool_asgi.upstream.request import BodyMeter, LengthMismatchError, encode_chunk, encode_request

ORIGIN = Origin("https", "api.example.com", 443)


def head(headers: Headers = (), method: bytes = b"GET", target: bytes = b"/v2/x?y=1") -> RequestHead:  # type: ignore[assignment]
    return RequestHead(method, ORIGIN, target, [(b"Host", ORIGIN.authority), *headers], 1.0)


def test_a_head_is_encoded_as_it_is() -> None:
    request = encode_request(head([(b"X-a", b"1"), (b"x-A", b"\xff"), (b"Content-LENGTH", b"05")], b"POST"))
    assert request.data == (
        b"POST /v2/x?y=1 HTTP/1.1\r\nHost: api.example.com\r\nX-a: 1\r\nx-A: \xff\r\nContent-LENGTH: 05\r\n\r\n"
    )
    assert (request.length, request.persistent) == (5, True)


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"Content-Length", b"0")], 0),
        ([(b"content-length", b"7")], 7),
        ([(b"Transfer-Encoding", b"Chunked")], None),
    ],
)
def test_the_length_of_a_body(headers: Headers, length: int | None) -> None:
    assert encode_request(head(headers)).length == length


@pytest.mark.parametrize("option", [b"close", b"Close", b"x, close"])
def test_a_request_that_closes(option: bytes) -> None:
    assert not encode_request(head([(b"Connection", option)])).persistent


NAMES = st.sampled_from([b"a", b"X-b", b"Content-Length", b"transfer-encoding", b"Connection", b"", b"x\r", b"\nx"])
VALUES = st.sampled_from([b"5", b"chunked", b"close", b"keep-alive", b"", b"a\0", b"\r\n", b"x\r\ny: z"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_only_what_reads_as_it_was_given_is_encoded(headers: Headers) -> None:
    given_head = head(headers)
    framing = [name.lower() for name, _ in headers if name.lower() in (b"content-length", b"transfer-encoding")]
    try:
        request = encode_request(given_head)
    except ValueError:
        line_breaks = any(set(b"\r\n\0") & set(name + value) for name, value in headers)
        assert line_breaks or framing
        return
    first, *lines, end, nothing = request.data.split(b"\r\n")
    assert first == b"GET /v2/x?y=1 HTTP/1.1"
    assert [tuple(line.split(b": ", 1)) for line in lines] == given_head.headers
    assert end == nothing == b""
    assert b"\0" not in request.data
    assert (request.length != 0) <= (len(framing) == 1)
    closes = any(name.lower() == b"connection" and b"close" in value for name, value in headers)
    assert request.persistent is not closes


SECRET = b"sk-hunter2"


@pytest.mark.parametrize(
    "bad",
    [
        head([(b"x", SECRET + b"\r\ny: z")]),
        head([(b"x", SECRET + b"\n")]),
        head([(b"x", SECRET + b"\r")]),
        head([(b"x", SECRET + b"\0")]),
        head([(b"x\r\ny", SECRET)]),
        head([(b"authorization", SECRET)], target=b"/ HTTP/1.1\r\nx: y"),
        head([(b"authorization", SECRET)], target=b"/a b"),
        head([(b"authorization", SECRET)], target=b""),
        head([(b"authorization", SECRET)], method=b"GET /"),
        head([(b"authorization", SECRET)], method=b""),
        head([(b"authorization", SECRET)], method=b"CONNECT"),
        head([(b"authorization", SECRET), (b"content-length", b"1"), (b"content-length", b"1")]),
        head([(b"authorization", SECRET), (b"content-length", b"1"), (b"transfer-encoding", b"chunked")]),
        head([(b"authorization", SECRET), (b"transfer-encoding", b"gzip, chunked")]),
        head([(b"authorization", SECRET), (b"content-length", b"+1")]),
        head([(b"authorization", SECRET), (b"content-length", b"")]),
    ],
)
def test_what_is_no_request_is_refused(bad: RequestHead) -> None:
    with pytest.raises(ValueError) as caught:
        encode_request(bad)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_request_is_not_printed() -> None:
    """I2."""
    assert "hunter2" not in repr(encode_request(head([(b"authorization", SECRET)])))


def test_chunks() -> None:
    assert encode_chunk(b"a" * 300) == b"12c\r\n" + b"a" * 300 + b"\r\n"


def test_a_meter_holds_back_what_completes_the_body() -> None:
    meter = BodyMeter(5)
    assert [meter.pass_on(b"ab"), meter.pass_on(b"c"), meter.pass_on(b"de")] == [b"ab", b"c", b""]
    assert (meter.rest(), meter.rest()) == (b"de", b"")


def test_a_meter_without_a_length_holds_nothing_back() -> None:
    meter = BodyMeter(None)
    assert (meter.pass_on(b"ab"), meter.rest()) == (b"ab", b"")


def test_a_meter_knows_too_much_and_too_little() -> None:
    with pytest.raises(LengthMismatchError, match="shorter"):
        BodyMeter(1).rest()
    meter = BodyMeter(1)
    meter.pass_on(b"a")
    with pytest.raises(LengthMismatchError, match="longer"):
        meter.pass_on(b"b")
