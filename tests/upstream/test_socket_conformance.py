"""The client's side of RFC 6455, case by case, in the order of the Autobahn test-suite: an echoing client is played to.

Each case says what the server sends and what it must be sent: echoes and pongs in order, and the code of the close
frame. Every case is sent whole, in pieces, and (where it is short) byte by byte: what is said must not depend on that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from keypool_asgi.core.sessions import Close
from keypool_asgi.errors import ConnectionBroken
from keypool_asgi.testing import INVALID_FRAMES
from keypool_asgi.testing.simulator.sockets.frames import frame

from .socket_tools import BINARY, CLOSE, PING, PONG, TEXT, Script, playing
from .tools import run, until

CONTINUATION = 0
LIMIT = 300_000
GREETING = "κόσμε".encode()  # Autobahn's own


@dataclass(frozen=True)
class Case:
    """What the server sends and what comes back.

    Attributes:
        sends: bytes of the server; once the echoes have come, its close frame follows.
        echoes: frames of the client before its close frame, as (opcode, payload).
        code: of the client's close frame.
        valid: whether the server has kept the rules.
    """

    sends: bytes
    echoes: tuple[tuple[int, bytes], ...] = ()
    code: int | None = 1000
    valid: bool = True


def echo(*frames: tuple[int, bytes]) -> Case:
    """Frames that come back as they are, pings as pongs."""
    answers = tuple((PONG if opcode == PING else opcode, payload) for opcode, payload in frames)
    return Case(b"".join(frame(opcode, payload) for opcode, payload in frames), answers)


def fragments(opcode: int, *pieces: bytes, between: bytes = b"") -> bytes:
    last = len(pieces) - 1
    framed = [frame(opcode if n == 0 else 0, piece, fin=n == last) for n, piece in enumerate(pieces)]
    return between.join(framed)


def joined(opcode: int, *pieces: bytes, between: bytes = b"", answers: tuple[tuple[int, bytes], ...] = ()) -> Case:
    return Case(fragments(opcode, *pieces, between=between), (*answers, (opcode, b"".join(pieces))))


def refused(sends: bytes, code: int = 1002, *echoes: tuple[int, bytes]) -> Case:
    return Case(sends, echoes, code, valid=False)


CASES: dict[str, Case] = {}

# 1. Framing
for size in (0, 125, 126, 127, 128, 65_535, 65_536):
    CASES[f"1.1 text of {size}"] = echo((TEXT, b"*" * size))
    CASES[f"1.2 binary of {size}"] = echo((BINARY, b"\xfe" * size))

# 2. Pings and pongs
CASES |= {
    "2.1 empty ping": echo((PING, b"")),
    "2.2 small ping": echo((PING, b"Hello, world!")),
    "2.3 binary ping": echo((PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")),
    "2.4 ping of 125": echo((PING, b"\xfe" * 125)),
    "2.5 ping of 126": refused(frame(PING, b"\xfe" * 126)),
    "2.7 unasked empty pong": Case(frame(PONG)),
    "2.8 unasked pong": Case(frame(PONG, b"unsolicited")),
    "2.9 unasked pong, then ping": Case(frame(PONG, b"unsolicited") + frame(PING, b"p"), ((PONG, b"p"),)),
    "2.10 ten pings": echo(*((PING, b"payload-%d" % n) for n in range(10))),
}

# 3. Reserved bits
CASES |= {
    "3.1 reserved bit 3": refused(frame(TEXT, b"Hello", rsv=0x10)),
    "3.2 reserved bit 2 after a message": refused(
        frame(TEXT, b"one") + frame(TEXT, b"two", rsv=0x20) + frame(PING), 1002, (TEXT, b"one")
    ),
    "3.3 reserved bits 2 and 3": refused(
        frame(TEXT, b"one") + frame(TEXT, b"two", rsv=0x30) + frame(PING), 1002, (TEXT, b"one")
    ),
    "3.4 reserved bit 1": refused(frame(TEXT, b"one") + frame(TEXT, b"two", rsv=0x40), 1002, (TEXT, b"one")),
    "3.5 reserved bits 1 and 3 of a binary": refused(frame(BINARY, b"\xff" * 8, rsv=0x50)),
    "3.6 reserved bits 1 and 2 of a ping": refused(frame(PING, b"Hello", rsv=0x60)),
    "3.7 all reserved bits of a close": refused(frame(CLOSE, b"\x03\xe8", rsv=0x70)),
}

# 4. Opcodes
for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    name = "4.1 data" if opcode < 8 else "4.2 control"
    CASES[f"{name} opcode {opcode}"] = refused(frame(opcode))
    CASES[f"{name} opcode {opcode} after a message"] = refused(
        frame(TEXT, b"Hello") + frame(opcode, b"x") + frame(PING), 1002, (TEXT, b"Hello")
    )

# 5. Fragmentation
CASES |= {
    "5.1 ping in two": refused(fragments(PING, b"frag", b"ment")),
    "5.2 pong in two": refused(fragments(PONG, b"frag", b"ment")),
    "5.3 text in two": joined(TEXT, b"frag", b"ment"),
    "5.6 text in two, ping between": joined(TEXT, b"a", b"b", between=frame(PING, b"p"), answers=((PONG, b"p"),)),
    "5.9 continuation with nothing to continue": refused(frame(CONTINUATION, b"x") + frame(TEXT, b"Hello")),
    "5.10 the same, after a message": refused(frame(TEXT, b"one") + frame(CONTINUATION, b"x"), 1002, (TEXT, b"one")),
    "5.12 open continuation with nothing to continue": refused(frame(CONTINUATION, b"x", fin=False)),
    "5.15 continuation after a message in two": refused(
        fragments(TEXT, b"a", b"b") + frame(CONTINUATION, b"c", fin=False) + frame(TEXT, b"d"), 1002, (TEXT, b"ab")
    ),
    "5.18 text within a text": refused(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    "5.18 binary within a text": refused(frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False)),
    "5.19 text in five, pings between": Case(
        fragments(TEXT, b"f1", b"f2", between=frame(PING, b"1"))[:-4]
        + frame(0, b"f2", fin=False)
        + frame(0, b"f3", fin=False)
        + frame(PING, b"2")
        + frame(0, b"f4", fin=False)
        + frame(0, b"f5"),
        ((PONG, b"1"), (PONG, b"2"), (TEXT, b"f1f2f3f4f5")),
    ),
    "5. binary in three, one of them empty": joined(BINARY, b"ab", b"", b"cd"),
    "5. nothing in three": joined(TEXT, b"", b"", b""),
    "5. a thousand fragments": joined(BINARY, *[bytes([n % 256]) for n in range(1000)]),
}

# 6. UTF-8: the boundaries of RFC 3629, and what lies beyond them
VALID_UTF8 = [
    b"",
    b"Hello-\xc2\xb5@\xc3\x9f\xc3\xb6\xc3\xa4\xc3\xbc\xc3\xa0\xc3\xa1-UTF-8!!",
    GREETING,
    *(chr(point).encode() for point in (0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0x10FFFF)),
    *(chr(point).encode() for point in (0xD7FF, 0xE000, 0xFDD0, 0x1FFFE, 0x2FFFF, 0xFFFFE)),
]
INVALID_UTF8 = [
    GREETING + b"\xed\xa0\x80edited",
    GREETING + b"\xf4\x90\x80\x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce",  # cut
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80",
    b"\xc0 \xc1 ",
    b"\xe0 \xef ",
    b"\xf0 \xf7 ",
    b"\xf8 ",
    b"\xfc ",
    b"\xfe",
    b"\xff",
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xf8\x80\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
]
for data in VALID_UTF8:
    CASES[f"6.2 valid {data!r}"] = echo((TEXT, data))
    CASES[f"6.2 valid {data!r} in bytes"] = joined(TEXT, *[data[n : n + 1] for n in range(len(data) or 1)])
for data in INVALID_UTF8:
    CASES[f"6.3 invalid {data!r}"] = refused(frame(TEXT, data), 1007)
    CASES[f"6.3 invalid {data!r} in bytes"] = refused(
        fragments(TEXT, *[data[n : n + 1] for n in range(len(data))]), 1007
    )
# 6.4: it fails at the first wrong byte, while the message, and even the frame, is still open
CASES |= {
    "6.4.1 wrong fragment of an open message": refused(
        frame(TEXT, GREETING, fin=False) + frame(0, b"\xf4\x90\x80\x80", fin=False), 1007
    ),
    "6.4.2 wrong second byte of an open message": refused(frame(TEXT, GREETING + b"\xf4\x90", fin=False), 1007),
    "6.4.3 wrong bytes of an open frame": refused(frame(TEXT, GREETING + b"\xf4\x90" + bytes(90))[:-90], 1007),
}

# 7. Closing
CASES |= {
    "7.1.1 close": Case(b""),
    "7.1.2 two closes": Case(frame(CLOSE, b"\x03\xe8") * 2),
    "7.1.3 ping after the close": Case(frame(CLOSE, b"\x03\xe8") + frame(PING)),
    "7.1.4 text after the close": Case(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"Hello")),
    "7.1.5 close within a message": Case(frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8") + frame(0, b"b")),
    "7.1.6 a big message, then close": echo((BINARY, b"b" * 256 * 1024), (TEXT, b"Hello")),
    "7.3.1 close without a code": Case(frame(CLOSE), code=None),
    "7.3.2 close of one byte": refused(frame(CLOSE, b"a")),
    "7.3.3 close with a code": Case(frame(CLOSE, b"\x03\xe8")),
    "7.3.4 close with a reason": Case(frame(CLOSE, b"\x03\xe8Hello World!")),
    "7.3.5 close with a reason of 123": Case(frame(CLOSE, b"\x03\xe8" + b"*" * 123)),
    "7.3.6 close with a reason of 124": refused(frame(CLOSE, b"\x03\xe8" + b"*" * 124)),
    "7.5.1 reason that is not utf-8": refused(frame(CLOSE, b"\x03\xe8" + GREETING + b"\xed\xa0\x80edited"), 1007),
}
for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
    CASES[f"7.7 close code {code}"] = Case(frame(CLOSE, code.to_bytes(2, "big")), code=code)
for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
    CASES[f"7.9 close code {code}"] = refused(frame(CLOSE, code.to_bytes(2, "big")))

# 9. Limits and sizes
CASES |= {
    "9.1 text of the limit": echo((TEXT, b"x" * LIMIT)),
    "9.2 binary of the limit": echo((BINARY, b"x" * LIMIT)),
    "9.3 text of the limit in fragments of 64": joined(TEXT, *[b"x" * 64] * (LIMIT // 64)),
    "9.4 binary of the limit in fragments of 16 Ki": joined(BINARY, *[b"x" * 16_384] * (LIMIT // 16_384)),
    "9.1 text over the limit": refused(frame(TEXT, b"x" * (LIMIT + 1)), 1009),
    "9.2 binary over the limit": refused(frame(BINARY, b"x" * (LIMIT + 1)), 1009),
    "9.3 fragments over the limit": refused(fragments(TEXT, *[b"x" * 1000] * (LIMIT // 1000), b"x"), 1009),
    "9.4 over the limit, and endless": refused(b"\x82\x7f" + (2**40).to_bytes(8, "big") + bytes(LIMIT + 1), 1009),
    "9.5 text over the limit in bytes, within it in characters": refused(
        frame(TEXT, "é".encode() * (LIMIT // 2 + 1)), 1009
    ),
    "9.7 a thousand small messages": echo(*((TEXT, b"%d" % n) for n in range(1000))),
    "9.8 a thousand messages of 126": echo(*((BINARY, bytes([n % 256]) * 126) for n in range(1000))),
}

# What a server, other than a client, must not do; and lengths that are not minimal (section 5.2)
CASES |= {
    "masked": refused(frame(TEXT, b"Hello", mask=b"\x01\x02\x03\x04")),
    "masked, longer": refused(frame(BINARY, b"Hello" * 60, mask=b"\x01\x02\x03\x04")),
    "masked ping": refused(frame(PING, mask=b"\x01\x02\x03\x04")),
    "length of 125 in two bytes": refused(b"\x81\x7e\x00\x7d" + bytes(125)),
    "length of 0 in two bytes": refused(b"\x82\x7e\x00\x00"),
    "length of 65535 in eight bytes": refused(b"\x82\x7f" + (65_535).to_bytes(8, "big") + bytes(65_535)),
    "length of 2**63": refused(b"\x82\x7f" + (2**63).to_bytes(8, "big")),
}

CUTS = {"whole": 2**20, "in pieces": 1000, "bytewise": 1}


async def play(case: Case, cut: int) -> tuple[Script, int | None, Close]:
    """Play a case; returns the server's side, the code of the client's close frame, and what its reader was told."""
    codes: list[int | None] = []

    async def act(script: Script) -> None:
        listening = asyncio.ensure_future(script.hear_close())
        for start in range(0, len(case.sends), cut):
            script.wire.writer.write(case.sends[start : start + cut])
            await asyncio.sleep(0)
        await until(lambda: listening.done() or len(script.frames) >= len(case.echoes))
        script.wire.writer.write(frame(CLOSE, b"\x03\xe8"))
        codes.append((await listening)[0])

    async with playing(act, message_bytes=LIMIT) as stage:
        socket = await stage.open()
        while not isinstance(message := await socket.receive(), Close):
            with suppress(ConnectionBroken):  # it may have been failed right after this message
                await socket.send(message)
        await socket.close(message)
        await stage.peer.settled()
        return stage.scripts[0], codes[0], message


def of_kind(frames: Iterable[tuple[int, bytes]], *opcodes: int) -> list[tuple[int, bytes]]:
    return [(first & 0x0F, payload) for first, payload in frames if first & 0x0F in opcodes]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, cut: str) -> None:
    case = CASES[name]
    if cut == "bytewise" and len(case.sends) > 400:
        cut = "in pieces"
    script, code, told = run(play(case, CUTS[cut]))
    assert all(first & 0xF0 == 0x80 for first, _ in script.frames), "whole frames, without reserved bits"
    assert code == case.code
    # A pong is sent when the ping is read, an echo when the message is taken: each in its own order.
    assert of_kind(script.frames, PONG) == of_kind(case.echoes, PONG)
    echoes = of_kind(script.frames, TEXT, BINARY)
    if case.valid:
        assert echoes == of_kind(case.echoes, TEXT, BINARY)
        assert told.code == (1005 if code is None else code)
    else:
        assert echoes == of_kind(case.echoes, TEXT, BINARY)[: len(echoes)]
        assert told.code == (1009 if code == 1009 else 1006)
        assert told.reason


@pytest.mark.parametrize("name", INVALID_FRAMES)
def test_an_invalid_frame_fails_the_connection(name: str) -> None:
    script, code, told = run(play(Case(INVALID_FRAMES[name], valid=False), CUTS["whole"]))
    assert (len(script.frames), told.code) == (1, 1006)
    assert code == (1007 if "utf-8" in name else 1002)
    assert told.reason
