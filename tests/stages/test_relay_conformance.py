"""RFC 6455 through the whole relay, on both sides: a caller that speaks in frames, and an upstream that echoes.

The cases are those of the Autobahn test-suite's sections 1 to 7, 9 and 10, whose numbers stand at each test. What is
right comes back as it was; what is wrong ends the session, and upstream is told by the product's own end message.
"""

from __future__ import annotations

import contextlib
import random
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from faults.rig import PREFIX, TOKEN, keys_of, simulated
from harness import Served, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, FrameCaller, calling, masked
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from keypool_asgi import KeyPool, Team
from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.testing import INVALID_FRAMES, Simulator, SocketFault
from keypool_asgi.testing.simulator.sockets.acts import Raw
from keypool_asgi.testing.simulator.sockets.frames import close_frame, frame

END = '{"type":"Terminate"}'
SIZES = (0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1_048_576)
ALPHABETS = {
    "one byte": "a~\x00\x7f",
    "two": "é\u07ff\u0080",
    "three": "\u20ac\uffff\u0800\ufeff",
    "four": "\U0001f600\U0010ffff",
}


class Echo(NamedTuple):
    """The pool, served, over a simulator that returns every message."""

    served: Served
    simulator: Simulator

    def last(self) -> Any:
        """The newest session, as upstream knows it, once it has ended."""
        self.simulator.wait_until(lambda simulator: not simulator.open_requests)
        return self.simulator.sessions[-1]


@pytest.fixture(name="served_once", params=["uvicorn-websockets-sansio", "uvicorn-wsproto"], scope="module")
def _served_once(request) -> Iterator[Echo]:
    with served_echo(request.param, ws_per_message_deflate=False) as echo:
        yield echo


@pytest.fixture(name="echo")
def _echo(served_once) -> Iterator[Echo]:
    yield served_once
    served_once.simulator.heal()


@contextlib.contextmanager
def served_echo(server: str, **serving: Any) -> Iterator[Echo]:
    simulator = simulated("k1", echo=True)
    with simulator.running():
        # An echo has no closing figures: nobody is to wait long for them.
        limits = SessionLimits(closing_seconds=0.05)
        pool = KeyPool(keys=keys_of("k1"), teams={TOKEN: Team("team-a")}, origins=simulator.origins, sessions=limits)
        with serve(pool, server, **serving) as served:
            yield Echo(served, simulator)


@contextlib.contextmanager
def caller_of(echo: Echo) -> Iterator[FrameCaller]:
    with calling(echo.served) as caller:
        assert '"Begin"' in caller.message()
        yield caller


@contextlib.contextmanager
def client_of(echo: Echo) -> Iterator[ClientConnection]:
    """A session of a client that keeps the rules."""
    url = echo.served.ws_url + PREFIX + "/v3/ws?sample_rate=16000"
    options: dict[str, Any] = {"compression": None, "max_size": None, "proxy": None, "ping_interval": None}
    with connect(url, additional_headers={"Authorization": TOKEN}, **options) as client:
        assert '"Begin"' in client.recv(timeout=10)
        yield client


def failed(echo: Echo, caller: FrameCaller) -> int | None:
    """The code with which a caller is failed that broke the protocol; upstream's session is ended in order (I8)."""
    frames = [each for each in caller.rest() if each.opcode not in (PING, PONG)]
    assert len(frames) <= 1
    session = echo.last()
    assert session.messages[-1:] == [("text", END)]
    assert session.client_close is not None
    return struct.unpack("!H", frames[0].payload[:2])[0] if frames and frames[0].payload else None


# 1, 9.1, 9.2: framing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_every_size_come_back_as_they_were(echo, size, opcode) -> None:
    data = random.Random(size).randbytes(size) if opcode == BINARY else b"*" * size
    with caller_of(echo) as caller:
        caller.send(masked(opcode, data))
        assert caller.message() == (data if opcode == BINARY else data.decode())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("chop", [1, 997])
def test_frames_that_come_in_bits_and_pieces(echo, size, chop) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    with caller_of(echo) as caller:
        caller.send_chopped(masked(BINARY, data[:size]), max(chop, size // 500))
        assert caller.message() == data[:size]


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"])
def test_every_mask(echo, mask) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(BINARY, bytes(range(256)), mask=mask))
        assert caller.message() == bytes(range(256))


def test_a_frame_without_a_mask_fails_the_connection(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(frame(TEXT, b"bare"))
        assert failed(echo, caller) in (None, 1002)


def test_empty_messages_stay_messages(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(TEXT), masked(BINARY), masked(TEXT, b"x"), masked(BINARY), masked(TEXT))
        assert [caller.message() for _ in range(5)] == ["", b"", "x", b"", ""]


# 2: pings and pongs


@pytest.mark.parametrize("payload", [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125])
@pytest.mark.parametrize("chopped", [False, True])
def test_a_ping_is_answered(echo, payload, chopped) -> None:
    with caller_of(echo) as caller:
        if chopped:
            caller.send_chopped(masked(PING, payload))
        else:
            caller.send(masked(PING, payload))
        assert caller.pong() == payload


def test_a_ping_that_is_too_long_fails_the_connection(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(PING, b"\xfe" * 126))
        assert failed(echo, caller) in (None, 1002)


def test_a_pong_nobody_asked_for_is_passed_over(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(PONG), masked(PONG, b"unasked"), masked(PING, b"asked"), masked(TEXT, b"on"))
        assert caller.pong() == b"asked"
        assert caller.message() == "on"


def test_many_pings_are_answered_in_order(echo) -> None:
    payloads = [b"payload-%d" % n for n in range(10)]
    with caller_of(echo) as caller:
        caller.send(*(masked(PING, payload) for payload in payloads))
        assert [caller.pong() for _ in payloads] == payloads
    assert echo.last().pings == 0, "a ping is the affair of one connection"


# 3, 4: reserved bits and opcodes


@pytest.mark.parametrize("rsv", [0x40, 0x20, 0x10, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_a_reserved_bit_fails_the_connection(echo, rsv, opcode) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, b"before"))
        assert caller.message() == "before"
        caller.send(masked(opcode, b"\x03\xe8", rsv=rsv), masked(TEXT, b"after"))
        assert failed(echo, caller) in (None, 1002)
    assert ("text", "after") not in echo.last().messages


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"reserved"])
def test_a_reserved_opcode_fails_the_connection(echo, opcode, payload) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(opcode, payload), masked(TEXT, b"after"))
        assert failed(echo, caller) in (None, 1002)
    assert ("text", "after") not in echo.last().messages


# 5, 9.3 to 9.6, 10: fragmentation


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_fragments_are_one_message(echo, opcode, count) -> None:
    pieces = [b"fragment-%d " % n for n in range(count)]
    with caller_of(echo) as caller:
        for n, piece in enumerate(pieces):
            caller.send(masked(CONTINUATION if n else opcode, piece, fin=n == count - 1), masked(PING, b"%d" % n))
            assert caller.pong() == b"%d" % n
        whole = b"".join(pieces)
        assert caller.message() == (whole.decode() if opcode == TEXT else whole)
    assert echo.last().received == 2, "the message and the end message"


@pytest.mark.parametrize("size", [64, 1300, 65_536])
def test_a_long_message_in_fragments(echo, size) -> None:
    data = random.Random(1).randbytes(1_048_576 if size == 65_536 else 65_536)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with caller_of(echo) as caller:
        last = len(pieces) - 1
        caller.send(*(masked(CONTINUATION if n else BINARY, piece, fin=n == last) for n, piece in enumerate(pieces)))
        assert caller.message() == data


def test_empty_fragments(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, fin=False), masked(CONTINUATION, fin=False), masked(CONTINUATION))
        caller.send(masked(BINARY, fin=False), masked(CONTINUATION, b"middle", fin=False), masked(CONTINUATION))
        assert [caller.message(), caller.message()] == ["", b"middle"]


@pytest.mark.parametrize(
    "wrong",
    [
        [masked(PING, b"p", fin=False), masked(CONTINUATION, b"q")],
        [masked(PONG, b"p", fin=False), masked(CONTINUATION, b"q")],
        [masked(CONTINUATION, b"first")],
        [masked(CONTINUATION, b"first", fin=False)],
        [masked(TEXT, b"one", fin=False), masked(TEXT, b"two")],
        [masked(TEXT, b"one", fin=False), masked(BINARY, b"two", fin=False)],
        [masked(TEXT, b"one", fin=False), masked(CONTINUATION, b"done"), masked(CONTINUATION, b"one more")],
    ],
)
def test_wrong_fragments_fail_the_connection(echo, wrong) -> None:
    with caller_of(echo) as caller:
        caller.send(*wrong)
        with contextlib.suppress(AssertionError, EOFError):
            assert caller.message() == "onedone"
        assert failed(echo, caller) in (None, 1002)


# 6: UTF-8


@pytest.mark.parametrize("name", ALPHABETS)
@pytest.mark.parametrize("size", [1, 125, 4096, 65_537])
def test_characters_of_every_length(echo, name, size) -> None:
    text = (ALPHABETS[name] * size)[:size]
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, text.encode()))
        assert caller.message() == text


def test_characters_that_are_cut_by_fragments(echo) -> None:
    data = "κόσμε \U0001f600 \uffff \U0010ffff".encode()
    with caller_of(echo) as caller:
        last = len(data) - 1
        caller.send(*(masked(CONTINUATION if n else TEXT, data[n : n + 1], fin=n == last) for n in range(len(data))))
        assert caller.message() == data.decode()


@pytest.mark.parametrize(
    "data",
    [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64",  # a surrogate
        b"\xf4\x90\x80\x80",  # beyond the last code point
        b"\xc0\xaf",  # overlong
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xfe",
        b"\xff",
        b"\x80",
        b"\xc3",  # cut
        b"\xe2\x82",
        b"ok \xf0\x9f\x98",
        b"\xf8\x88\x80\x80\x80",
    ],
)
@pytest.mark.parametrize("fragmented", [False, True])
def test_text_that_is_not_utf8_fails_the_connection(echo, data, fragmented) -> None:
    with caller_of(echo) as caller:
        if fragmented:
            caller.send(masked(TEXT, b"so far so good", fin=False), masked(CONTINUATION, data))
        else:
            caller.send(masked(TEXT, data))
        assert failed(echo, caller) in (None, 1007)
    assert echo.last().received == 1, "only the end message"


# 7: closing


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3008, 3999, 4000, 4001, 4999]
)
def test_a_callers_close_is_answered_and_told_upstream(echo, code) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(CLOSE, struct.pack("!H", code) + "au revoir, é".encode()))
        assert caller.closed()[0] == code
    session = echo.last()
    assert session.messages == [("text", END)]
    assert session.client_close == (code, "au revoir, é")


@pytest.mark.parametrize("reason", ["", "x" * 123, "é" * 61])
def test_a_callers_reason_is_told_upstream(echo, reason) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(CLOSE, b"\x0f\xa0" + reason.encode()))
        assert caller.closed()[0] == 4000
    assert echo.last().client_close == (4000, reason)


def test_an_empty_close_frame(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(CLOSE))
        assert caller.closed()[0] in (None, 1000)
    assert echo.last().client_close == (1000, "")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_a_close_code_that_must_not_be_sent_reaches_nobody(echo, code) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(CLOSE, struct.pack("!H", code)))
        # wsproto lets codes of nobody (1016 to 2999) and above 4999 come back.
        assert failed(echo, caller) in (None, 1002, code)
    told = echo.last().client_close[0]
    assert told is None or told in (1000, 1001, 1002)


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe8" + b"x" * 124, b"\x03\xe8\xce\xba\xe1\xbd\xb9\xed\xa0\x80"])
def test_a_close_frame_that_is_wrong_fails_the_connection(echo, payload) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(CLOSE, payload))
        assert failed(echo, caller) in (None, 1000, 1002, 1007)


def test_what_comes_after_a_close_is_not_heard(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(CLOSE, b"\x03\xe8"), masked(TEXT, b"after"), masked(PING, b"after"), masked(CLOSE))
        assert [each.opcode for each in caller.rest()] == [CLOSE]
    assert echo.last().messages == [("text", END)]


def test_what_was_said_before_a_close_is_heard(echo) -> None:
    said = [masked(TEXT, b"%d" % n) for n in range(100)]
    with caller_of(echo) as caller:
        caller.send(*said, masked(CLOSE, b"\x03\xe8"))
        caller.rest()
    assert [text for _, text in echo.last().messages] == [*(str(n) for n in range(100)), END]


def test_a_close_within_a_fragmented_message(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, b"half a mess", fin=False), masked(CLOSE, b"\x03\xe8"))
        # websockets answers 1002: "incomplete fragmented message".
        assert failed(echo, caller) in (1000, 1002)
    assert echo.last().received == 1, "half a message is none"


@pytest.mark.parametrize("reset", [False, True])
def test_a_caller_that_vanishes_ends_the_session_upstream(echo, reset) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, b"one"))
        assert caller.message() == "one"
        if reset:
            caller.reset()
    session = echo.last()
    assert session.messages == [("text", "one"), ("text", END)]
    assert session.client_close[0] in (1000, 1001), "some servers say 1005 for an end without a close frame"


# The other side: what upstream says in frames


def from_upstream(echo: Echo, *pieces: bytes) -> None:
    """Have upstream send exactly these bytes, piece by piece, after its ``Begin`` and one message of the caller's."""
    echo.simulator.fail(SocketFault(tuple(Raw(piece) for piece in pieces), after=1), times=1)


@contextlib.contextmanager
def told_by_upstream(echo: Echo, *pieces: bytes) -> Iterator[FrameCaller]:
    from_upstream(echo, *pieces)
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, b"go"))
        assert caller.message() == "go"
        yield caller


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_upstreams_messages_of_every_size(echo, size, opcode) -> None:
    data = random.Random(size).randbytes(size) if opcode == BINARY else b"*" * size
    with told_by_upstream(echo, frame(opcode, data) + frame(TEXT, b"next")) as caller:
        assert caller.message() == (data if opcode == BINARY else data.decode())
        assert caller.message() == "next"


@pytest.mark.parametrize("text", [*ALPHABETS.values(), "κόσμε", ""])
def test_upstreams_frames_in_bits_and_pieces(echo, text) -> None:
    data = frame(TEXT, text.encode()) + frame(PING, b"life?") + frame(BINARY, b"\xff" * 200)
    with told_by_upstream(echo, *(data[n : n + 1] for n in range(len(data)))) as caller:
        assert [caller.message(), caller.message()] == [text, b"\xff" * 200]
    assert echo.last().pongs == 1


@pytest.mark.parametrize("count", [2, 3, 50])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_upstreams_fragments_are_one_message(echo, count, opcode) -> None:
    data = ("\U0001f600" * count).encode()  # in text they are cut within characters
    size = len(data) // count + 1
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    frames = [
        frame(CONTINUATION if n else opcode, piece, fin=n == len(pieces) - 1) + frame(PING, b"%d" % n)
        for n, piece in enumerate(pieces)
    ]
    with told_by_upstream(echo, b"".join(frames)) as caller:
        assert caller.message() == (data.decode() if opcode == TEXT else data)
        caller.send(masked(TEXT, b"still there"))
        assert caller.message() == "still there"
    assert echo.last().pongs == len(pieces)


def test_upstreams_pings_and_pongs_are_no_affair_of_the_callers(echo) -> None:
    frames = frame(PONG, b"unasked") + b"".join(frame(PING, b"%d" % n) for n in range(10)) + frame(TEXT, b"on")
    with told_by_upstream(echo, frames) as caller:
        each = caller.frame()
        assert (each.opcode, each.payload) == (TEXT, b"on")
    assert echo.last().pongs == 10


@pytest.mark.parametrize("kind", INVALID_FRAMES)
def test_upstreams_breach_of_the_protocol_is_an_error_to_the_caller(echo, kind) -> None:
    with told_by_upstream(echo, frame(TEXT, b"before") + INVALID_FRAMES[kind]) as caller:
        assert caller.message() == "before", "what was complete is delivered"
        code, reason = caller.closed()
        assert code == 1011
        assert reason
    assert echo.last().client_close[0] in (1002, 1007)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_upstreams_reserved_opcodes(echo, opcode) -> None:
    with told_by_upstream(echo, frame(opcode, b"x") + frame(TEXT, b"after")) as caller:
        assert caller.closed()[0] == 1011


@pytest.mark.parametrize("rsv", [0x40, 0x20, 0x10])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_upstreams_reserved_bits(echo, rsv, opcode) -> None:
    with told_by_upstream(echo, frame(opcode, b"\x03\xe8", rsv=rsv)) as caller:
        assert caller.closed()[0] == 1011


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3005, 3006, 3008, 3999, 4000, 4001, 4999]
)
def test_upstreams_close_reaches_the_caller(echo, code) -> None:
    with told_by_upstream(echo, frame(TEXT, b"before") + close_frame(code, "au revoir, é")) as caller:
        assert caller.message() == "before"
        assert caller.closed() == (code, "au revoir, é")


@pytest.mark.parametrize("reason", ["x" * 123, "é" * 61])
def test_upstreams_longest_reasons(echo, reason) -> None:
    with told_by_upstream(echo, close_frame(4000, reason)) as caller:
        assert caller.closed() == (4000, reason)


def test_upstreams_empty_close_frame(echo) -> None:
    with told_by_upstream(echo, close_frame(None)) as caller:
        assert caller.closed() == (1000, "")


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_an_upstream_that_breaks_off_is_an_error_to_the_caller(echo, how) -> None:
    echo.simulator.fail(SocketFault.says("before", after=1).and_then(SocketFault.dropped(how)), times=1)
    with caller_of(echo) as caller:
        caller.send(masked(TEXT, b"go"))
        assert [caller.message(), caller.message()] == ["go", "before"]
        assert caller.closed()[0] == 1011


# Limits


def test_a_callers_message_that_is_too_long(echo) -> None:
    with caller_of(echo) as caller:
        caller.send(masked(BINARY, bytes(1_048_576)))
        assert len(caller.message()) == 1_048_576
        caller.send(masked(BINARY, bytes(1_048_577)))
        # What it is told while it ends: the echo of our end message.
        told = [each for each in caller.rest() if each.opcode == CLOSE]
        assert struct.unpack("!H", told[0].payload[:2]) == (1009,)
    assert echo.last().messages[-1] == ("text", END)


@pytest.mark.parametrize("text", ["é" * 524_289, "\U0001f600" * 262_145])
def test_the_limit_counts_bytes_of_text_and_not_characters(echo, text) -> None:
    with caller_of(echo) as caller:
        fitting = text[:-1]
        caller.send(masked(TEXT, fitting.encode()))
        assert caller.message() == fitting
        caller.send(masked(TEXT, text.encode()))
        assert [each.payload[:2] for each in caller.rest() if each.opcode == CLOSE] == [struct.pack("!H", 1009)]


@pytest.mark.parametrize("data", [b"x" * 1_048_577, "é".encode() * 524_289])
def test_upstreams_message_that_is_too_long(echo, data) -> None:
    with told_by_upstream(echo, frame(TEXT, data)) as caller:
        assert caller.closed()[0] == 1009


# Both directions at once


def test_both_directions_at_once_lose_and_swap_nothing(echo) -> None:
    chance = random.Random(7)
    sent = [
        f"{n}:" + "é" * chance.randrange(200)
        if n % 3 == 0
        else b"%d:" % n + chance.randbytes(chance.choice([0, 9, 3200]))
        for n in range(1500)
    ]
    with client_of(echo) as client:
        sender = threading.Thread(target=lambda: [client.send(message) for message in sent])
        sender.start()
        received = [client.recv(timeout=30) for _ in sent]
        sender.join()
    assert received == sent


texts = st.text(st.characters(codec="utf-8"), max_size=300)
sizes = st.sampled_from([0, 1, 124, 125, 126, 127, 128, 4096, 65_535, 65_536])
blobs = st.builds(lambda size, seed: random.Random(seed).randbytes(size), sizes, st.integers(0, 255))
sequences = st.lists(texts | blobs | st.binary(max_size=200), min_size=1, max_size=25)


def test_random_sequences_come_back_as_they_were(echo) -> None:
    with client_of(echo) as client:

        @given(sequences)
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        def come_back(sequence) -> None:
            for message in sequence:
                client.send(message)
            assert [client.recv(timeout=10) for _ in sequence] == sequence

        come_back()


def test_random_frames_make_the_same_messages(echo) -> None:
    """However a message is cut into frames, and the frames into pieces, it is the same message upstream."""
    with caller_of(echo) as caller:

        @given(sequences, st.randoms(use_true_random=False))
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        def come_back(sequence, chance) -> None:
            data = b"".join(_cut(message, chance) for message in sequence)
            caller.send_chopped(data, max(1, len(data) // chance.randint(1, 20)))
            assert [caller.message() for _ in sequence] == sequence

        come_back()


def _cut(message: str | bytes, chance: random.Random) -> bytes:
    data = message.encode() if isinstance(message, str) else message
    places = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(0, 4)))
    ends = [*places, len(data)]
    frames, start = [], 0
    for n, end in enumerate(ends):
        opcode = CONTINUATION if n else (TEXT if isinstance(message, str) else BINARY)
        frames.append(masked(opcode, data[start:end], fin=n == len(ends) - 1))
        if chance.random() < 0.3:
            frames.append(masked(PONG, b"noise"))
        start = end
    return b"".join(frames)


# Other servers


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_messages_through_other_servers(server) -> None:
    chance = random.Random(3)
    sent = ["", b"", "é" * 40_000, *(chance.randbytes(size) for size in SIZES), *(f"{n}" for n in range(50))]
    with served_echo(server) as echo:
        with client_of(echo) as client:
            for message in sent:
                client.send(message)
            assert [client.recv(timeout=10) for _ in sent] == sent
            client.close(4000, "enough")
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=5)
        assert echo.last().messages[-1] == ("text", END)
