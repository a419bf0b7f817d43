"""Finding figures in an answer that passes by: whatever its size, its pieces and its coding."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keypool_asgi.core.metering import Figures, Scanner, readable_codings, scanner_for

MEMBERS = ("status", "audio_duration", "usage.total_tokens", "usage.more.deep", "na\\u00efve")

scalars = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=30) | st.floats(
    allow_nan=False, allow_infinity=False, width=32
)  # fmt: skip
keys = st.sampled_from(
    ("status", "audio_duration", "usage", "total_tokens", "more", "deep", "words", "a b", "")
) | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))
objects = st.dictionaries(keys, values, max_size=8)


def reference(found, path):
    """What a parser says of a path; None where there is nothing or no scalar."""
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return None if isinstance(found, dict | list) else found


def scan(data, size, members=MEMBERS):
    scanner, longest = Scanner(members), 0
    for at in range(0, len(data), size):
        scanner.feed(data[at : at + size])
        longest = max(longest, len(scanner._tail))
    assert longest <= 1000
    return scanner.found


@given(objects, st.integers(1, 50), st.sampled_from((None, 0, 1)), st.booleans())
@example({"usage": {"x": "\\"}, "status": "a"}, 1, None, False)
@example({"a": "\"status\":\"b\"", "status": "a"}, 3, None, False)  # fmt: skip
def test_finds_what_a_parser_finds(document, size, indent, ascii_only):
    data = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = scan(data, size)
    for path in ("status", "audio_duration", "usage.total_tokens", "usage.more.deep"):
        expected = reference(document, path)
        if isinstance(expected, str):
            continue  # a text is found as it is written
        assert found.get(path) == expected


@given(st.lists(objects, min_size=1, max_size=4), st.integers(1, 30))
def test_later_objects_of_a_stream_replace_earlier_ones(documents, size):
    data = b"".join(b"event: x\n: ping\ndata: %s\n\n" % json.dumps(one).encode() for one in documents)
    found = scan(data + b"data: [DONE]\n\n", size, ("audio_duration",))
    expected = None
    for document in documents:
        value = document.get("audio_duration")
        if "audio_duration" in document and not isinstance(value, dict | list):
            expected = value
    if not isinstance(expected, str):
        assert found.get("audio_duration") == expected


@given(st.binary(max_size=300), st.integers(1, 20))
def test_anything_may_come(data, size):
    for value in scan(data, size).values():
        assert value is None or isinstance(value, int | float | str | bool)


TOKENS = r'{ } [ ] : , " \ \" "status" "usage" "total_tokens" "usage":{ "x" "y\n" 1 -2.5e3 null fals NaN data:'
WHOLE = r'"status":"completed", "audio_duration":12, "q":null, "z":{"k":"v"}, "w":[{"a":"}"},{"b":[[]]}], {"v":[}'
LENGTHS = [pattern % ("k" * length) for pattern in ('"%s":1,', '"status":"%s",') for length in (200, 201)]
FRAGMENTS = [*TOKENS.split(), *WHOLE.split(), *LENGTHS, " ", "1" * 45]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
@example('"usage":{"a":{},"total_tokens":3,"b":[]},"status":null}')
def test_members_that_are_passed_over_together_are_as_those_that_are_read(members):
    """A byte at a time, none is there as a whole, so that each is read, whether it matters or not."""
    together, each = Scanner(MEMBERS), Scanner(MEMBERS)
    data = b"{" + members.encode()
    together.feed(data)
    for at in range(len(data)):
        each.feed(data[at : at + 1])
    assert together.found == each.found


@pytest.mark.parametrize("size", [1, 97, 65_536])
def test_memory_is_one_short_token(size):
    """Texts, names and lists of any length pass by."""
    document = {
        "text": 'she said \\ "status": "x" {[' * 3000,
        "words": [{"text": f"w{number}", "of": [[{"deep": {"er": [number]}}]]} for number in range(2000)],
        "status": "completed",
        "audio_duration": 3601,
        "usage": {"details": {"total_tokens": 1}, "total_tokens": 7},
    }
    found = scan(json.dumps(document).encode(), size)
    assert found == {"status": "completed", "audio_duration": 3601, "usage.total_tokens": 7}


def test_depth_takes_no_memory():
    scanner = Scanner(MEMBERS)
    scanner.feed(b'{"usage": ' + b'{"usage": ' * 10_000)
    assert len(scanner._path) <= 1
    scanner.feed(b"1" + b"}" * 10_001 + b"}")
    scanner.feed(b'{"status": "again"}')
    assert scanner.found == {"status": "again"}


def test_a_name_without_end_ends_the_search():
    scanner = Scanner(MEMBERS)
    scanner.feed(b'{"' + b"a" * 100_000)
    scanner.feed(b'": 1, "status": "completed"}')
    assert scanner.found == {}
    assert len(scanner._tail) <= 110_000


def test_a_long_text_is_passed_over():
    assert scan(json.dumps({"status": "x" * 10_000, "audio_duration": 3}).encode(), 11) == {"audio_duration": 3}


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        (None, lambda data: data),
        (b"identity", lambda data: data),
        (b"gzip", gzip.compress),
        (b"GZIP", gzip.compress),
        (b"deflate", zlib.compress),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_codings(coding, encode, size):
    data = encode(json.dumps({"words": ["x"] * 1000, "status": "ok"}).encode())
    headers = [] if coding is None else [(b"content-encoding", coding)]
    scanner = scanner_for(Figures(frozenset({"status"}), dict), headers)
    assert scanner is not None
    for at in range(0, len(data), size):
        scanner.feed(data[at : at + size])
    assert scanner.found == {"status": "ok"}


def test_a_broken_coding_finds_nothing():
    scanner = scanner_for(Figures(frozenset({"status"}), dict), [(b"content-encoding", b"gzip")])
    assert scanner is not None
    scanner.feed(b"this is not gzip")
    scanner.feed(gzip.compress(b'{"status":1}'))
    assert scanner.found == {}


def test_other_codings_cannot_be_read():
    assert scanner_for(Figures(frozenset(), dict), [(b"content-encoding", b"br")]) is None


@pytest.mark.parametrize(
    ("accepted", "asked"),
    [
        ([], b"identity"),
        ([b"gzip, deflate, br"], b"gzip"),
        ([b"br", b"gzip;q=0.5"], b"gzip"),
        ([b"br;q=1.0, gzip;q=0"], b"identity"),
        ([b"gzip;q=0.000, br"], b"identity"),
        ([b"zstd"], b"identity"),
        ([b"x-gzippy"], b"identity"),
    ],
)
def test_only_what_can_be_read_is_asked_for(accepted, asked):
    headers = [(b"a", b"1"), *((b"accept-encoding", value) for value in accepted)]
    assert readable_codings(headers) == [(b"a", b"1"), (b"accept-encoding", asked)]
