"""RFC 9112: what is one response, and what is refused. Both parsers, held against h11 as the parser of record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keypool_asgi.core.messages import Headers
from keypool_asgi.errors import ConnectionBroken, ProtocolViolation
from keypool_asgi.upstream.parsers import load_parser
from keypool_asgi.upstream.response import ResponseReader

PARSERS = {name: load_parser(name) for name in ("httptools", "h11")}
parsers = pytest.mark.parametrize("parser", PARSERS)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was made of a byte stream that ends."""

    status: int
    reason: bytes
    headers: Headers
    body: bytes


def read(
    parser: str, pieces: Iterable[bytes], method: bytes = b"GET", max_head: int = 65_536, *, clean: bool = True
) -> tuple[Result, ResponseReader]:
    reader = ResponseReader(method, PARSERS[parser], max_head)
    body = b"".join(reader.feed(piece) for piece in pieces)
    persistent = reader.persistent
    if not reader.ended:
        reader.feed_eof(clean=clean)
    reader.persistent = persistent
    assert reader.head is not None
    return Result(reader.head.status, reader.head.reason, reader.head.headers, body), reader


def record(stream: bytes, method: bytes = b"GET") -> Result | None:
    """What h11 makes of it: the parser of record. None if it refuses."""
    conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    conn.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    conn.send(h11.EndOfMessage())
    head, body = None, b""
    try:
        conn.receive_data(stream)
        eof = False
        while True:
            event = conn.next_event()
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif event is h11.NEED_DATA and not eof:
                conn.receive_data(b"")
                eof = True
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    assert head is not None
    return Result(head.status_code, bytes(head.reason), list(head.headers.raw_items()), body)


ACCEPTED = {
    "length": (OK + b"Content-Length: 3\r\n\r\nabc", b"abc", True),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde", True),
    "chunk extension": (CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0\r\n\r\n', b"abc", True),
    "trailers are dropped": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", b"abc", True),
    "until close": (OK + b"\r\nabc", b"abc", False),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
        b"a",
        True,
    ),
    "close": (OK + b"Connection: Keep-Alive, Close\r\nContent-Length: 1\r\n\r\na", b"a", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", b"a", False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", False),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
    "no reason": (b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na", b"a", True),
    "no reason, no space": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", b"a", True),
    "upgrade offered": (OK + b"Upgrade: h2\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\na", b"a", True),
    "bytes after a length": (OK + b"Content-Length: 1\r\n\r\na" + OK + b"\r\n", b"a", False),
    "bytes after chunks": (CHUNKED + b"1\r\na\r\n0\r\n\r\n" + OK + b"\r\n", b"a", False),
    "a response after chunks": (CHUNKED + b"1\r\na\r\n0\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nno", b"a", False),
    "chunks after chunks": (CHUNKED + b"1\r\na\r\n0\r\n\r\n" + CHUNKED + b"2\r\nno\r\n", b"a", False),
    "garbage after chunks": (CHUNKED + b"1\r\na\r\n0\r\n\r\n\x00\x01", b"a", False),
    "garbage after close": (
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nzz",
        b"a",
        False,
    ),
}


@parsers
@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_what_is_accepted(parser: str, name: str, step: int) -> None:
    stream, body, persistent = ACCEPTED[name]
    result, reader = read(parser, [stream[at : at + step] for at in range(0, len(stream), step)])
    assert result == record(stream)
    assert result.body == body
    assert reader.persistent == persistent


REFUSED = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in a status line": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"hello",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\n\r\n",
    "no space": b"HTTP/1.1 200OK\r\n\r\n",
    "leading line": b"\r\n" + OK + b"\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + OK + b"\r\n",
    "conflicting lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "repeated length": OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "list of lengths": OK + b"Content-Length: 1, 1\r\n\r\na",
    "signed length": OK + b"Content-Length: +1\r\n\r\na",
    "hexadecimal length": OK + b"Content-Length: 0x1\r\n\r\na",
    "empty length": OK + b"Content-Length:\r\n\r\na",
    "enormous length": OK + b"Content-Length: 9999999999999999999\r\n\r\na",
    "length and chunked": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nabc",
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded line": OK + b"X-A: b\r\n c\r\n\r\n",
    "folded first line": OK + b" X-A: b\r\n\r\n",
    "folded with tab": OK + b"X-A: b\r\n\tc\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF in a field": OK + b"X-A: b\nContent-Length: 5\r\n\r\n",
    "bare CR": OK + b"X-A: b\rContent-Length: 5\r\n\r\n",
    "NUL": OK + b"X-A: b\0c\r\n\r\n",
    "control character": OK + b"X-A: b\x0bc\r\n\r\n",
    "DEL": OK + b"X-A: b\x7fc\r\n\r\n",
    "control character in the reason": b"HTTP/1.1 200 O\x01K\r\n\r\n",
    "space before colon": OK + b"Content-Length : 0\r\n\r\n",
    "no colon": OK + b"Content-Length\r\n\r\n",
    "empty name": OK + b": x\r\n\r\n",
    "name no token": OK + b"X(A): x\r\n\r\n",
    "name not ASCII": OK + b"X\xc3\xa4: x\r\n\r\n",
    "chunk size signed": CHUNKED + b"+1\r\na\r\n0\r\n\r\n",
    "chunk size 0x": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "chunk size empty": CHUNKED + b"\r\na\r\n0\r\n\r\n",
    "chunk size enormous": CHUNKED + b"f" * 30 + b"\r\na\r\n0\r\n\r\n",
    "chunk too long": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "chunk size with LF": CHUNKED + b"1\na\n0\n\n\r\n",
    "trailer no field": CHUNKED + b"1\r\na\r\n0\r\nX Y\r\n\r\n",
}


@parsers
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("step", [1, 10_000])
def test_what_is_refused(parser: str, name: str, step: int) -> None:
    stream = REFUSED[name]
    with pytest.raises(ProtocolViolation) as caught:
        read(parser, [stream[at : at + step] for at in range(0, len(stream), step)])
    assert caught.value.sent


TRUNCATED = {
    "nothing": b"",
    "in the head": OK + b"Content-Length: 3\r\n",
    "after an interim response": b"HTTP/1.1 100 Continue\r\n\r\n",
    "in the body": OK + b"Content-Length: 3\r\n\r\nab",
    "before the last chunk": CHUNKED + b"3\r\nabc\r\n",
    "in a chunk": CHUNKED + b"3\r\nab",
    "in the last chunk": CHUNKED + b"3\r\nabc\r\n0\r\n",
}


@parsers
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_is_broken(parser: str, name: str) -> None:
    """I7."""
    with pytest.raises(ConnectionBroken):
        read(parser, [TRUNCATED[name]])


@parsers
def test_a_reset_does_not_end_a_body_that_ends_with_the_connection(parser: str) -> None:
    with pytest.raises(ConnectionBroken):
        read(parser, [OK + b"\r\nabc"], clean=False)


@parsers
@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X-A: b"])
def test_head_has_no_body(parser: str, framing: bytes) -> None:
    result, reader = read(parser, [OK + framing + b"\r\n\r\n"], b"HEAD")
    assert (result.body, reader.ended, reader.persistent) == (b"", True, True)


@parsers
def test_header_bytes_are_kept(parser: str) -> None:
    fields = [
        (b"X-Caf\xe9"[:5], b"caf\xc3\xa9"),
        (b"SET-cookie", b"a=1"),
        (b"set-Cookie", b"b=\xff"),
        (b"X-Empty", b""),
    ]
    stream = OK + b"".join(b"%b: \t%b \t\r\n" % field for field in fields) + b"Content-Length: 0\r\n\r\n"
    result, _ = read(parser, [stream])
    assert result.headers == [*fields, (b"Content-Length", b"0")]


PIECES = [b"\r\n", b"\r", b"\n", b"\t", b" ", b"\0", b"\x7f", b"\x1f", b"\x80", b"\xff", b"a", b"a: b\r\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
@example(b"a\r\n b")
@example(b"a\r\r\nb: \n")
def test_a_head_is_lines_of_visible_characters(value: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nx: " + value + b"\r\n\r\n"
    sound = not any(re.search(rb"[^\t -~\x80-\xff]|\A[ \t]", line) for line in head.split(b"\r\n"))
    with nullcontext() if sound else pytest.raises(ProtocolViolation):
        assert ResponseReader(b"GET", PARSERS["h11"])._check_head(head) == (b"1", 200)


@parsers
def test_heads_are_bounded(parser: str) -> None:
    fits = OK + b"X-A: " + b"a" * 955 + b"\r\nContent-Length: 0\r\n\r\n"
    assert len(fits) == 1000
    read(parser, [fits], max_head=1000)
    for pieces in ([fits], [fits[:-1]], [fits[:500], fits[500:]]):
        with pytest.raises(ProtocolViolation, match="too large"):
            read(parser, pieces, max_head=len(fits) - 2)


@parsers
@pytest.mark.parametrize("flood", [b"0\r\n" + b"X-A: b\r\n" * 10_000, b"1;" + b"a" * 80_000])
def test_what_is_dropped_is_bounded_too(parser: str, flood: bytes) -> None:
    """I4."""
    with pytest.raises(ProtocolViolation):
        read(parser, [CHUNKED, *(flood[at : at + 1000] for at in range(0, len(flood), 1000))])


@parsers
def test_errors_quote_nothing(parser: str) -> None:
    """I2: a response may hold secrets, in a field as well as in a place where no field should be."""
    for stream in (OK + b"hunter2\r\n\r\n", OK + b"X: hunter2\x01\r\n\r\n", CHUNKED + b"hunter2\r\n"):
        with pytest.raises(ProtocolViolation) as caught:
            read(parser, [stream])
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in str(error)
            error = error.__cause__ or error.__context__


# The same bytes mean the same, however they arrive

_names = st.sampled_from([b"X-A", b"x-a", b"Set-Cookie", b"Content-Type", b"X-Empty"])
_values = st.binary(max_size=12).map(lambda raw: bytes(b for b in raw if b > 32 and b != 127))
_fields = st.lists(st.tuples(_names, _values), max_size=5)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    head = b"".join(b"%b: %b\r\n" % field for field in draw(_fields))
    status = draw(st.sampled_from([b"200 OK", b"404 Not Found", b"500 ", b"204 No Content", b"304 Not Modified"]))
    body = draw(st.binary(max_size=60))
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 x\r\nLink: y\r\n\r\n"]))
    start = interim + b"HTTP/1.1 " + status + b"\r\n" + head
    kind = draw(st.sampled_from(["length", "chunked", "close"]))
    if status[:3] in (b"204", b"304"):
        return start + b"\r\n"
    if kind == "length":
        return start + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == "close":
        return start + b"\r\n" + body
    cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=3))})
    chunks = [body[a:b] for a, b in pairwise(cuts)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return start + b"Transfer-Encoding: chunked\r\n\r\n" + coded


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(edges)]


@parsers
@settings(max_examples=80, deadline=None)
@given(stream=responses(), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_any_split_parses_to_the_same(parser: str, stream: bytes, cuts: list[int]) -> None:
    result, reader = read(parser, split(stream, cuts))
    assert reader.ended
    assert result == record(stream)


_POISON = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"f", b"-", b"+", b"0x", b"\x0b", b"\xff",
        b"Content-Length: 4\r\n", b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n ", b"chunked",
        b"Transfer-Encoding: identity\r\n", b"Transfer_Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n", b"Connection: close\r\n", b"identity, ",
        b"HTTP/1.0", b"HTTP/1.1 101 x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    ]
)  # fmt: skip


@parsers
@settings(max_examples=200, deadline=None)
@given(
    stream=responses(),
    method=st.sampled_from([b"GET", b"HEAD"]),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), _POISON | st.just(b"")), max_size=3),
    surplus=st.just(b"") | _POISON | responses(),
)
def test_mutated_is_refused_or_understood_alike(  # noqa: PLR0917 - hypothesis names them
    parser: str, stream: bytes, method: bytes, cuts: list[int], edits: list[tuple[int, int, bytes]], surplus: bytes
) -> None:
    for at, deleted, inserted in edits:
        start = at % (len(stream) + 1)
        stream = stream[:start] + inserted + stream[start + deleted :]
    stream += surplus
    try:
        result, _ = read(parser, split(stream, cuts), method)
    except (ProtocolViolation, ConnectionBroken):
        return
    assert result == record(stream, method)
