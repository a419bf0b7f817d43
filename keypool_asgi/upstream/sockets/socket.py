"""An open WebSocket connection: messages both ways, signs of life, and the close (RFC 6455, sections 5 to 7).

How it ends, and what whoever receives is told:

==============================  ===================================  ===============================
what happens                    what upstream is sent                ``receive`` returns
==============================  ===================================  ===============================
a close frame comes             the same code                        the code and reason that came
``close()``                     the code and reason given            what upstream answers
a frame or message is invalid   1002, or 1007 for what is not UTF-8  1006, and what was wrong
a message is too big            1009                                 1009
the connection ends             nothing                              1006
silence after a ping            nothing but ``last_words``           1006
nothing is taken of a write     nothing                              1006
``abort()``                     nothing                              1006
==============================  ===================================  ===============================

Whatever was complete before the end is delivered before it. Once both sides have closed, or the connection was
failed, the server is left to end TCP (section 7.1.1), for ``LINGER_SECONDS`` at most.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from keypool_asgi.core.sessions import Close, SessionLimits
from keypool_asgi.errors import ConnectionBroken, UpstreamError, UpstreamTimeout
from keypool_asgi.upstream.connection import Connection

from .closing import TOO_BIG, ViolationError, encode_close
from .frames import CLOSE, PING, PONG, FrameWriter
from .messages import MessageReader, Ping

__all__ = ["NativeSocket"]

LINGER_SECONDS: Final = 1.0
"""Seconds that the server has to end TCP after the closing handshake."""

SINCE_PING: Final = -math.inf
"""In place of the time at which something was heard: nothing was, since a ping. No time would do: uvloop's clock ticks
in milliseconds, and a pong may come within one."""

BROKEN: Final = 1006
"""The code of an end without a close frame (RFC 6455, section 7.1.5)."""


class NativeSocket:
    """An ``UpstreamSocket`` on a connection whose upgrade is complete (an ``Exchange`` of it).

    Args:
        conn: the connection.
        limits: of the session.
        frames: builds what is sent.
        data: what came after the answer to the upgrade.
        last_words: a message that is sent before this side fails the connection, as far as it takes any.
    """

    __slots__ = (
        "_buffered",
        "_closed",
        "_closing",
        "_conn",
        "_end",
        "_frames",
        "_full",
        "_gone",
        "_heard",
        "_last_words",
        "_limits",
        "_lost",
        "_messages",
        "_now",
        "_pong",
        "_reader",
        "_receiver",
        "_sender",
        "_stalled",
    )

    def __init__(
        self,
        conn: Connection,
        limits: SessionLimits,
        frames: FrameWriter,
        data: bytes = b"",
        *,
        last_words: str | None = None,
    ) -> None:
        self._last_words = last_words
        self._conn = conn
        self._limits = limits
        self._frames = frames
        self._reader = MessageReader(limits.message_bytes)
        self._messages: list[str | bytes] = []  # there are few; an empty deque takes 700 bytes
        self._buffered = 0  # bytes of them, never too few
        self._full = False  # too much waits for whoever receives: nothing is read, nor parsed
        self._lost: str | None = None  # the connection has ended; what it left is not parsed yet
        self._end: Close | None = None  # nothing is taken any more
        self._closing = False  # our close frame is on its way
        self._gone = False  # the connection has ended
        self._stalled = False
        self._pong: bytes | None = None  # answers a ping that came when there was no room
        self._receiver: asyncio.Future[None] | None = None
        self._sender: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._now = conn.loop.time
        self._heard = self._now()
        conn.exchange = self
        conn.overdue.start(limits.ping_seconds)
        if data:
            self.on_data(data)

    async def send(self, message: str | bytes) -> None:
        """Send one message, text or binary; returns when upstream's side has room for more.

        Raises:
            ConnectionBroken: the connection is closing, closed or broken.
            UpstreamTimeout: upstream took nothing within the write timeout.
        """
        conn = self._conn
        if self._closing or self._end is not None or conn.closing():
            raise self._refusal()
        conn.write(self._frames.message(message))
        if conn.paused:
            await self._room()

    async def receive(self) -> str | bytes | Close:
        """Return the next message, or how the connection has ended; from then on always that."""
        messages = self._messages
        while not messages:
            if self._end is not None:
                return self._end
            self._receiver = self._conn.loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        message = messages.pop(0)
        # A text of n bytes may have fewer characters: what is left over is forgotten with the last message.
        self._buffered = self._buffered - len(message) if messages else 0
        if self._full and self._caught_up():
            self._read_on()
        return message

    async def close(self, close: Close) -> None:
        """Send a close frame, wait for the peer's for ``closing_seconds``, and for the end of TCP. Idempotent.

        What comes meanwhile can still be received; what is too much for the buffers is dropped.
        """
        if not (self._closing or self._gone or self._end is not None or self._conn.closing()):
            self._send_close(close)
            self._conn.overdue.start(self._limits.closing_seconds)
            if self._full:
                self._read_on()
        if self._closed is None:
            self._closed = self._conn.loop.create_future()
            if self._gone:
                self._closed.set_result(None)
        try:
            await asyncio.shield(self._closed)
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """End the connection at once, without a close frame. Idempotent."""
        self._finish(Close(BROKEN, "the connection was cut here"))
        self._conn.cut()

    # What the connection tells

    def on_data(self, data: bytes) -> None:
        """Take bytes."""
        self._heard = self._now()
        if self._end is None:
            self._reader.feed(data)
            if not self._full:
                self._parse()

    def on_end(self, *, clean: bool) -> None:
        """No more bytes will come."""
        self._gone = True
        self._conn.exchange = None
        how = "ended" if clean else "broke off"
        self._lost = f"the connection {how} without a close frame"
        if not self._full:
            self._finish(Close(BROKEN, self._lost))
        _wake(self._sender)
        _wake(self._closed)

    def on_room(self) -> None:
        """The transport takes writes again."""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._answer(pong)
        _wake(self._sender)

    def on_stalled(self) -> None:
        """Upstream took nothing within the write timeout."""
        self._stalled = True
        self._finish(Close(BROKEN, "upstream takes nothing any more"))
        self._conn.cut()

    def on_overdue(self) -> None:
        """Look for signs of life; or a close has taken too long."""
        if self._end is not None:
            self._conn.cut()
        elif self._closing:
            self._finish(Close(BROKEN, f"no close frame came within {self._limits.closing_seconds:g} s"))
            self._conn.cut()
        else:
            self._look_for_life()

    # Inside

    def _parse(self) -> None:
        """Take what is complete, until too much waits."""
        try:
            while not self._full and (event := self._reader.next()) is not None:
                if type(event) is str or type(event) is bytes:
                    self._keep(event)
                elif type(event) is Ping:
                    self._answer(event.payload)
                elif type(event) is Close:
                    self._take_close(event)
                    return
        except ViolationError as exc:
            self._fail(exc)

    def _keep(self, message: str | bytes) -> None:
        """Have a message wait for whoever receives, and stop reading if that is too much."""
        limits, messages = self._limits, self._messages
        waiting = len(messages)
        if waiting >= limits.buffered_messages or self._buffered >= limits.buffered_bytes:
            return  # only while we close: who closes need not receive, and the peer's close frame comes after this
        messages.append(message)
        size = len(message)
        self._buffered += size if type(message) is bytes or message.isascii() else 4 * size
        if not self._closing and (waiting + 1 >= limits.buffered_messages or self._buffered >= limits.buffered_bytes):
            self._full = True
            self._conn.pause_reading()
        _wake(self._receiver)

    def _caught_up(self) -> bool:
        limits, waiting = self._limits, len(self._messages)
        if waiting > limits.buffered_messages // 2 or self._buffered > limits.buffered_bytes // 2:
            return not waiting
        return True

    def _read_on(self) -> None:
        """Take what had to wait, and read again."""
        self._full = False
        if self._end is None:
            self._parse()
        if self._full:
            return
        if self._lost is not None:
            self._finish(Close(BROKEN, self._lost))
        self._heard = self._now()
        self._conn.resume_reading()

    async def _room(self) -> None:
        while self._conn.paused:
            self._sender = self._conn.loop.create_future()
            try:
                await self._sender
            finally:
                self._sender = None
            if self._end is not None or self._conn.closing():
                raise self._refusal()

    def _refusal(self) -> UpstreamError:
        if self._stalled:
            return UpstreamTimeout("upstream took nothing of a message within the write timeout", sent=True)
        return ConnectionBroken("the WebSocket connection is closed", sent=True)

    def _answer(self, payload: bytes) -> None:
        """Answer a ping; while there is no room only the last one, as RFC 6455 allows (section 5.5.3)."""
        if self._closing or self._conn.closing():
            return
        if self._conn.paused:
            self._pong = payload
        else:
            self._conn.write(self._frames.frame(PONG, payload))

    def _look_for_life(self) -> None:
        """Ping after a time of silence, and after another one give up."""
        conn, span, now = self._conn, self._limits.ping_seconds, self._now()
        if self._full or conn.paused:  # nothing is read; or a write waits, and then its own timeout watches
            self._heard = now
        silence = now - self._heard
        if silence < span:
            conn.overdue.start(span - silence)
        elif self._heard == SINCE_PING:
            self._say_last_words()
            self._finish(Close(BROKEN, f"no sign of life within {span:g} s of a ping"))
            conn.cut()
        else:
            self._heard = SINCE_PING
            conn.write(self._frames.frame(PING))
            conn.overdue.start(span)

    def _take_close(self, close: Close) -> None:
        """Answer the peer's close frame, unless it is the answer to ours."""
        if not self._closing:
            self._send_close(close)
        self._finish(close)
        self._linger()

    def _fail(self, violation: ViolationError) -> None:
        """Fail the connection (RFC 6455, section 7.1.7)."""
        if not self._closing:
            self._say_last_words()
            self._send_close(Close(violation.code, violation.what))
        self._finish(Close(TOO_BIG if violation.code == TOO_BIG else BROKEN, violation.what))
        self._linger()

    def _say_last_words(self) -> None:
        if self._last_words is not None and not (self._conn.paused or self._conn.closing()):
            self._conn.write(self._frames.message(self._last_words))

    def _linger(self) -> None:
        if not self._gone:
            self._conn.overdue.start(LINGER_SECONDS)

    def _send_close(self, close: Close) -> None:
        self._closing = True
        if not self._conn.closing():
            self._conn.write(self._frames.frame(CLOSE, encode_close(close)))

    def _finish(self, end: Close) -> None:
        """Take nothing any more; the first end counts."""
        if self._end is None:
            self._end = end
            _wake(self._receiver)
            _wake(self._sender)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
