"""Messages out of bytes: however these are cut, and with fragments, pings and limits in any order."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameDecoder

from keypool_asgi.core.sessions import Close
from keypool_asgi.testing.simulator.sockets.frames import frame
from keypool_asgi.upstream.sockets.closing import ViolationError
from keypool_asgi.upstream.sockets.messages import Event, MessageReader, Ping

LIMIT = 400


def read(pieces: Iterable[bytes], limit: int = LIMIT) -> list[Event | int]:
    """Everything that a reader says; the code of a violation last."""
    reader = MessageReader(limit)
    events: list[Event | int] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next()) is not None:
                events.append(event)
                if isinstance(event, Close):
                    return events
    except ViolationError as exc:
        events.append(exc.code)
    return events


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


messages = st.one_of(st.text(max_size=140), st.binary(max_size=140), st.integers(120, 300).map(lambda size: "x" * size))
pings = st.binary(max_size=125).map(Ping)


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Valid bytes, and what they say."""
    data, events = b"", []
    for event in draw(st.lists(st.one_of(messages, pings), max_size=8)):
        events.append(event)
        if isinstance(event, Ping):
            data += frame(9, event.payload)
            continue
        payload = event.encode() if isinstance(event, str) else event
        pieces = cut(payload, draw(st.lists(st.integers(0, 300), max_size=3)))
        for number, piece in enumerate(pieces):
            opcode = 0 if number else 1 if isinstance(event, str) else 2
            data += frame(opcode, piece, fin=number == len(pieces) - 1)
            if number < len(pieces) - 1 and draw(st.booleans()):
                data += frame(10, b"a pong, which is passed over")
    return data, events


@settings(max_examples=150)
@given(said=framed(), places=st.lists(st.integers(0, 3000), max_size=8))
def test_what_is_said_is_read_however_it_is_cut(said: tuple[bytes, list[Event]], places: list[int]) -> None:
    data, events = said
    assert read(cut(data, places)) == events
    assert read([data]) == events


@settings(max_examples=150)
@given(
    said=framed(),
    tail=st.one_of(st.binary(max_size=12), st.binary(min_size=1, max_size=3).map(lambda head: b"\x81" + head * 9)),
    flip=st.tuples(st.integers(0, 3000), st.integers(0, 255)),
    places=st.lists(st.integers(0, 3000), max_size=8),
)
def test_what_is_wrong_is_found_however_it_is_cut(
    said: tuple[bytes, list[Event]], tail: bytes, flip: tuple[int, int], places: list[int]
) -> None:
    data = bytearray(said[0] + tail)
    if data:
        data[flip[0] % len(data)] = flip[1]
    ways = [[bytes(data)], cut(bytes(data), places), [data[n : n + 1] for n in range(len(data))]]
    # A message that is both too long and no UTF-8 is refused for what is seen first.
    first, *others = [[1007 if event == 1009 else event for event in read(way)] for way in ways]
    assert all(other == first for other in others)


def test_short_messages_in_one_piece_do_not_need_wsproto(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MessageReader(LIMIT)
    fed: list[bytes] = []
    monkeypatch.setattr(FrameDecoder, "receive_bytes", lambda _self, data: fed.append(data))
    reader.feed(frame(1, b"one") + frame(2, b"2" * 300) + frame(1, "drü".encode()))
    assert [reader.next(), reader.next(), reader.next(), reader.next()] == ["one", b"2" * 300, "drü", None]
    assert fed == []


def test_wsproto_is_kept_only_while_it_has_something() -> None:
    reader = MessageReader(LIMIT)
    reader.feed(frame(9, b"a ping") + frame(1, b"in ")[:4])
    assert [reader.next(), reader.next()] == [Ping(b"a ping"), None]
    assert reader._decoder is not None
    reader.feed(frame(1, b"in ")[4:])
    assert [reader.next(), reader.next()] == ["in ", None]
    assert reader._decoder is None


@pytest.mark.parametrize("opcode", [1, 2])
@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("count", [1, 3])
def test_the_limit_is_of_a_message(opcode: int, size: int, count: int) -> None:
    payload = b"x" * size
    pieces = cut(payload, range(0, size, size // count + 1))[1:]
    data = b"".join(frame(0 if n else opcode, piece, fin=n == len(pieces) - 1) for n, piece in enumerate(pieces))
    expected = payload.decode() if opcode == 1 else payload
    assert read([data, data]) == ([expected] * 2 if size == LIMIT else [1009])


def test_a_message_over_the_limit_is_refused_before_it_has_come() -> None:
    head = b"\x82\x7f" + (2**40).to_bytes(8, "big")
    assert read([head, bytes(LIMIT)]) == []
    assert read([head, bytes(LIMIT), b"x"]) == [1009]


def test_fragments_without_end_take_no_memory() -> None:
    reader = MessageReader(LIMIT)
    reader.feed(frame(2, b"", fin=False))
    for _ in range(1000):
        reader.feed(frame(0, b"", fin=False))
        assert reader.next() is None
    assert len(reader._partial) == 0
    reader.feed(frame(0, b"x"))
    assert reader.next() == b"x"


def test_nothing_of_what_was_sent_is_in_the_words_of_a_violation() -> None:
    reader = MessageReader(LIMIT)
    reader.feed(frame(1, b"hush hush \xff"))
    with pytest.raises(ViolationError) as caught:
        reader.next()
    assert "hush" not in caught.value.what
    assert caught.value.__cause__ is None
