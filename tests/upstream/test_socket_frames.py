"""Frames that go out (RFC 6455, section 5): masks, lengths, and what wsproto makes of them."""

from __future__ import annotations

from itertools import islice

import pytest
from harness import need
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from keypool_asgi.upstream.sockets import frames, masks
from keypool_asgi.upstream.sockets.frames import CLOSE, PING, PONG, FrameWriter

payloads = st.one_of(st.binary(max_size=300), st.binary(min_size=1, max_size=9).map(lambda part: part * 8000))
four_bytes = st.binary(min_size=4, max_size=4)


def plain_mask(payload: bytes, mask: bytes) -> bytes:
    """As RFC 6455 says in section 5.3."""
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


@settings(max_examples=100)
@given(payload=st.binary(max_size=70), mask=four_bytes)
def test_both_masks_do_what_the_rfc_says(payload: bytes, mask: bytes) -> None:
    expected = plain_mask(payload, mask)
    assert masks.pure_mask(payload, mask) == expected
    assert masks.apply_mask(payload, mask) == expected


@settings(max_examples=100)
@given(payload=payloads, mask=four_bytes)
def test_the_pure_mask_does_what_the_one_in_c_does(payload: bytes, mask: bytes) -> None:
    need("websockets")
    from websockets.speedups import apply_mask

    assert masks.apply_mask is apply_mask
    assert masks.pure_mask(payload, mask) == apply_mask(payload, mask)


def test_masks_are_fresh() -> None:
    taken = list(islice(masks.fresh_masks(), 1000))
    assert {len(mask) for mask in taken} == {4}
    assert len(set(taken)) > 990  # 1000 of 2**32: two alike are rare, ten are not random


def test_two_writers_do_not_share_masks() -> None:
    one, other = FrameWriter(), FrameWriter()
    assert {one.message(b"")[2:] for _ in range(100)}.isdisjoint({other.message(b"")[2:] for _ in range(100)})


@pytest.fixture(params=["pure", "fastest"])
def mask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure":
        monkeypatch.setattr(frames, "apply_mask", masks.pure_mask)


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_what_wsproto_reads_is_what_was_written(size: int, kind: str) -> None:
    message = "x" * size if kind == "text" else bytes(index % 251 for index in range(size))
    data = FrameWriter().message(message)
    assert type(data) is bytes
    assert len(data) == size + (6 if size < 126 else 8 if size < 65_536 else 14)
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    (event,) = server.events()
    assert type(event) is (TextMessage if kind == "text" else BytesMessage)
    assert event.message_finished
    assert event.data == message


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize(("first", "name"), [(CLOSE, "CloseConnection"), (PING, "Ping"), (PONG, "Pong")])
def test_control_frames(first: int, name: str) -> None:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(FrameWriter().frame(first, b"\x03\xe8ab"))
    (event,) = server.events()
    assert type(event).__name__ == name
    assert getattr(event, "payload", b"\x03\xe8ab") == b"\x03\xe8ab"


@settings(max_examples=50)
@given(messages=st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=12))
def test_any_messages_are_read_back(messages: list[str | bytes]) -> None:
    writer, server = FrameWriter(), Connection(ConnectionType.SERVER)
    server.receive_data(b"".join(writer.message(message) for message in messages))
    assert [event.data for event in server.events()] == messages
