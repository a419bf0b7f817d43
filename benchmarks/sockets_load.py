"""Load on WebSocket sessions: audio as fast as it goes, there and back, in real time, or nothing at all."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from .answers import PREFIX, TOKEN
from .sockets_upstream import FLOOD_PIECE
from .sockets_wire import BINARY, CLOSE, NUMBERED, PING, TEXT, Reader, frame, pong

__all__ = ["Caller", "Tally", "opened", "pump", "push", "real_time", "swallow", "upgrade"]

_OPEN_SECONDS, _END_SECONDS = 30.0, 20.0
_TERMINATE = frame(TEXT, b'{"type":"Terminate"}', masked=True)
_SILENCE = bytes(3200)
_OPENED_AT_ONCE = 20


@dataclass(slots=True)
class Tally:
    """What a number of sessions have sent and received.

    Attributes:
        sent: audio messages.
        received: messages that came back.
        lost: audio messages that upstream has not got, and answers that were due and did not come.
        wrong: messages that came out of order, either way.
        seconds: from an audio message to what came back for it.
    """

    sent: int = 0
    received: int = 0
    lost: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def messages(self) -> int:
        """Messages in both directions."""
        return self.sent + self.received


class Caller(asyncio.Protocol):
    """One session.

    Args:
        query: how upstream is to behave.
        tally: where it counts.
        every: an answer comes for so many audio messages.
        ahead: how many messages less the first answer needs: sessions that are all answered in the same moment would
            measure whatever happens in that one.
        on_answer: called for each.
    """

    def __init__(self, query: str, tally: Tally, every: int = 1, ahead: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self.query, self.tally, self.every, self.ahead = f"{query}&ahead={ahead}", tally, every, ahead
        self.head: bytes | None = b""
        self.reader = Reader()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[tuple[int, int]] = loop.create_future()
        self.on_answer: Callable[[], None] | None = None
        self.number = self.answers = 0

    def connection_made(self, transport: Any) -> None:
        """Ask for the upgrade."""
        self.transport = transport
        transport.write(upgrade(self.query))

    def data_received(self, data: bytes) -> None:
        """Take the answer to the upgrade first, and frames then."""
        if self.head is not None:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self.head.startswith(b"HTTP/1.1 101"):
                self.begun.set_exception(ValueError(f"the server under test answers {self.head[:60]!r}"))
                return
            data, self.head = self.head[end + 4 :], None
        for opcode, _, beginning in self.reader.read(data):
            if opcode == BINARY:
                self._answered(*NUMBERED.unpack_from(beginning))
            elif opcode == TEXT:
                self._told(beginning)
            elif opcode == PING:
                self.transport.write(pong(beginning, masked=True))
            elif opcode == CLOSE:
                self.transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell whoever waits."""
        for waiter in (self.begun, self.ended):
            if not waiter.done():
                waiter.set_exception(ConnectionResetError("a session was broken off"))
                waiter.exception()  # nobody need wait

    def say(self, size: int) -> None:
        """Send one audio message."""
        self.tally.sent += 1
        self.transport.write(
            frame(BINARY, NUMBERED.pack(self.number, time.perf_counter_ns()) + _SILENCE[16:size], masked=True)
        )
        self.number += 1

    async def end(self) -> None:
        """End the session in order, and compare what upstream has got with what was sent."""
        self.transport.write(_TERMINATE)
        async with asyncio.timeout(_END_SECONDS):
            received, wrong = await self.ended
        self.tally.lost += self.number - received + (self.ahead + self.number) // self.every - self.answers
        self.tally.wrong += wrong
        self.transport.close()

    def _told(self, beginning: bytes) -> None:
        if beginning.startswith(b'{"type":"Turn"'):
            self._answered(int(beginning[24:44]), int(beginning[50:70]))
        elif beginning.startswith(b'{"type":"Begin"'):
            self.begun.set_result(None)
        elif beginning.startswith(b'{"type":"Termination"'):
            self.ended.set_result((int(beginning[33:45]), int(beginning[54:60])))

    def _answered(self, number: int, at: int) -> None:
        self.answers += 1
        self.tally.received += 1
        self.tally.wrong += number != self.answers * self.every - self.ahead - 1
        if at:
            self.tally.seconds.append((time.perf_counter_ns() - at) / 1e9)
        if self.on_answer is not None:
            self.on_answer()


@asynccontextmanager
async def opened(port: int, count: int, query: str, tally: Tally, every: int = 1) -> AsyncIterator[list[Caller]]:
    """Open so many sessions, a few at a time; yields them once they are served."""
    callers: list[Caller] = []
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            while len(callers) < count:
                numbers = range(len(callers), min(len(callers) + _OPENED_AT_ONCE, count))
                new = [await _dialed(port, Caller(query, tally, every, number % every)) for number in numbers]
                callers += new
                await asyncio.gather(*(caller.begun for caller in new))
        yield callers
    finally:
        for caller in callers:
            caller.transport.abort()


async def _dialed(port: int, caller: Caller) -> Caller:
    await asyncio.get_running_loop().create_connection(lambda: caller, "127.0.0.1", port)
    return caller


async def pump(port: int, count: int, seconds: float, *, size: int, window: int, every: int) -> tuple[Tally, float]:
    """Keep ``window`` messages of each session under way, of which each ``every``-th is answered.

    Returns what was counted, and for how long.
    """
    tally = Tally()
    query = f"every={every}" if every > 1 else "echo=1"
    async with opened(port, count, query, tally, every) as callers:
        began = time.perf_counter()
        until = began + seconds

        def goes_on(caller: Caller) -> Callable[[], None]:
            def go_on() -> None:
                if time.perf_counter() < until:
                    for _ in range(every):
                        caller.say(size)

            return go_on

        for caller in callers:
            caller.on_answer = goes_on(caller)
            for _ in range(window):
                caller.say(size)
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        await asyncio.gather(*(caller.end() for caller in callers))
    return tally, took


async def real_time(
    port: int, count: int, seconds: float, *, per_second: float, sizes: tuple[int, ...], every: int, look: Any = None
) -> Tally:
    """Have so many sessions speak at once, each message at its time.

    ``look`` is called once all are open, after a quarter of the time, and when all have spoken.
    """
    tally = Tally()
    async with opened(port, count, f"every={every}", tally, every) as callers:
        loop = asyncio.get_running_loop()
        if look is not None:
            look()
            loop.call_later(seconds / 4, look)
        start = loop.time() + 0.1
        chance = random.Random(1)
        await asyncio.gather(
            *(
                _speak(caller, start + chance.random() / per_second, round(seconds * per_second), 1 / per_second, sizes)
                for caller in callers
            )
        )
        await asyncio.sleep(0.2)
        if look is not None:
            look()
        await asyncio.gather(*(caller.end() for caller in callers))
    return tally


async def _speak(caller: Caller, start: float, count: int, interval: float, sizes: tuple[int, ...]) -> None:
    now = asyncio.get_running_loop().time
    for n in range(count):
        await asyncio.sleep(max(0.0, start + n * interval - now()))
        caller.say(sizes[n % len(sizes)])


# One session, blocking


def upgrade(query: str) -> bytes:
    """Return the request that begins a session."""
    lines = [
        f"GET {PREFIX}/v3/ws?sample_rate=16000&{query} HTTP/1.1",
        "Host: bench",
        "User-Agent: bench",
        f"Authorization: {TOKEN}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def swallow(port: int, total: int, *, pause: float) -> None:
    """Have upstream push so many bytes, read nothing for a while, and then all of it."""
    with _connected(port, f"flood={total}") as sock:
        time.sleep(pause)
        reader, numbers = Reader(), 0
        while numbers < total // FLOOD_PIECE:
            for opcode, _, beginning in reader.read(_some(sock)):
                if opcode == BINARY:
                    if NUMBERED.unpack_from(beginning)[0] != numbers:
                        raise ValueError("a message was lost")
                    numbers += 1
                elif opcode == PING:
                    sock.sendall(pong(beginning, masked=True))


def push(port: int, total: int, *, pause: float) -> None:
    """Push so many bytes at an upstream that reads nothing for a while; it must then have got all of them."""
    rest = bytes(FLOOD_PIECE - NUMBERED.size)
    count = total // FLOOD_PIECE
    with _connected(port, f"stall={pause}") as sock:
        for number in range(count):
            sock.sendall(frame(BINARY, NUMBERED.pack(number, 0) + rest, masked=True))
        sock.sendall(_TERMINATE)
        reader = Reader()
        while True:
            for opcode, _, beginning in reader.read(_some(sock)):
                if opcode == TEXT and beginning.startswith(b'{"type":"Termination"'):
                    if (int(beginning[33:45]), int(beginning[54:60])) != (count, 0):
                        raise ValueError("a message was lost")
                    return


@contextmanager
def _connected(port: int, query: str) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.settimeout(_OPEN_SECONDS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        sock.connect(("127.0.0.1", port))
        sock.sendall(upgrade(query))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        if not head.startswith(b"HTTP/1.1 101"):
            raise ValueError(f"the server under test answers {head[:60]!r}")
        yield sock


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(262_144)
    if not data:
        raise ConnectionResetError("the server under test has broken off a session")
    return data
