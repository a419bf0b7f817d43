"""One HTTP request and its response on a connection. Both sides may run at the same time, each in one task.

What happens at the edges:

- **Nothing is complete before ``finish()``** (I7). A request without a body is not sent at all until then, and the
  piece that fills a Content-Length is held back. The head of a request with a body goes out with the first piece, or
  alone at the loop's next step: a server may want to answer before it is sent a body.
- **Early answers.** When upstream answers and closes in the middle of an upload, ``write()`` and ``finish()`` raise
  ConnectionBroken, and ``head()`` and ``read()`` still deliver the answer.
- **Stale connections.** Nothing has been sent: any request moves to a new connection. It has, and a reused connection
  ends without a byte of response: GET, HEAD and OPTIONS without a body are sent once more. No other method is, not
  even DELETE: RFC 9110 (9.2.2) would allow it, but if the first one did arrive, the second one answers "not found",
  and the caller learns that a deletion failed which did not.
"""

from __future__ import annotations

import asyncio
from typing import Final

from keypool_asgi.core.messages import RequestHead, ResponseHead
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation, UpstreamError, UpstreamTimeout

from .connection import Connection
from .connections import Connections
from .request import LAST_CHUNK, BodyMeter, EncodedRequest, LengthMismatchError, encode_chunk
from .response import ResponseReader
from .settings import HIGH_WATER, Timeouts

__all__ = ["NativeCall"]

REPEATABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Methods that may be sent once more when a reused connection was closed (invariant I6)."""


class NativeCall:
    """An ``UpstreamCall`` on one connection of a client."""

    __slots__ = (
        "_body",
        "_closed",
        "_conn",
        "_connections",
        "_failure",
        "_finished",
        "_flush",
        "_key",
        "_method",
        "_patience",
        "_pieces",
        "_queued",
        "_reader",
        "_request",
        "_room",
        "_timeouts",
        "_unsent",
        "_waiter",
        "_write_failure",
    )

    def __init__(
        self,
        connections: Connections,
        conn: Connection,
        head: RequestHead,
        request: EncodedRequest,
        *,
        reader: ResponseReader,
        timeouts: Timeouts,
    ) -> None:
        self._connections = connections
        self._key = conn.key
        self._method = head.method
        self._patience = head.patience
        self._request = request
        self._timeouts = timeouts
        self._reader = reader
        self._body = BodyMeter(request.length)
        self._finished = False
        self._closed = False
        self._failure: UpstreamError | None = None
        self._write_failure: UpstreamError | None = None
        self._pieces: list[bytes] = []
        self._queued = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._attach(conn)
        self._flush = None if request.length == 0 else conn.loop.call_soon(self._flush_head)

    # The request

    async def write(self, data: bytes) -> None:
        """Send a piece of the body, and wait if upstream is slower than we are.

        Raises:
            UpstreamError: the connection failed, or the body is longer than its Content-Length.
        """
        if not data:
            return
        self._check_writable()
        try:
            data = self._body.pass_on(data)
        except LengthMismatchError as exc:
            raise self._misframed(exc) from None
        if not data:
            return
        if self._stale():
            await self._reopen()
        self._send(encode_chunk(data) if self._request.length is None else data)
        if self._conn.paused:
            await self._wait_for_room()

    async def finish(self) -> None:
        """Complete the request. The response head is expected from here on, or from when upstream has taken it all.

        Raises:
            UpstreamError: the connection failed, or the body is shorter than its Content-Length.
        """
        if self._finished:
            return
        self._check_writable()
        try:
            rest = self._body.rest()
        except LengthMismatchError as exc:
            raise self._misframed(exc) from None
        if self._stale():
            await self._reopen()
        self._finished = True
        self._send(LAST_CHUNK if self._request.length is None else rest)
        self._expect_head()

    # The response

    async def head(self) -> ResponseHead:
        """Wait for the head of the final response.

        Raises:
            UpstreamError: the connection failed, or ``patience`` is over.
        """
        while self._reader.head is None:
            if self._failure is None:
                await self._news()
            elif self._repeatable():
                await self._reopen()
                self._send(b"")
                self._expect_head()
            else:
                raise self._failure
        return self._reader.head

    async def read(self) -> tuple[bytes, bool]:
        """Return what has come of the body, and whether more follows.

        Raises:
            UpstreamError: the response broke off, or nothing came within the read timeout.
        """
        if self._reader.head is None:
            await self.head()
        while not self._pieces:
            if self._reader.ended and not self._closed:
                return b"", False
            if self._failure is not None:
                raise self._failure
            self._conn.overdue.start(self._timeouts.read)
            try:
                await self._news()
            finally:
                self._conn.overdue.stop()
        pieces, self._pieces, self._queued = self._pieces, [], 0
        self._conn.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), not self._reader.ended

    def close(self) -> None:
        """End the call, and keep the connection if the exchange is complete on both sides."""
        if self._closed:
            return
        self._closed = True
        if self._flush is not None:
            self._flush.cancel()
        reader = self._reader
        if self._finished and reader.ended and reader.persistent and self._request.persistent:
            self._connections.release(self._conn)
        else:
            self._connections.discard(self._conn)
        self._pieces = []
        if self._failure is None:
            self._failure = ConnectionBroken("the call was closed", sent=not self._unsent)
        _wake(self._waiter)
        _wake(self._room)

    # What the connection tells

    def on_data(self, data: bytes) -> None:
        """Take response bytes."""
        if self._unsent or self._failure is not None:
            self._conn.cut()  # an answer to a request that was never sent: this connection is not fit for use
            return
        reader = self._reader
        try:
            data = reader.feed(data)
        except ProtocolViolation as exc:
            self._fail(exc)
            return
        if reader.head is None:
            return
        self._conn.overdue.stop()
        if data:
            self._pieces.append(data)
            self._queued += len(data)
            if self._queued > HIGH_WATER:
                self._conn.pause_reading()
        _wake(self._waiter)

    def on_end(self, *, clean: bool) -> None:
        """The connection has ended: the response is complete, or broken."""
        _wake(self._room)
        if self._unsent:
            return  # stale before it was used: the next write() or finish() takes another
        try:
            self._reader.feed_eof(clean=clean)
        except ConnectionBroken as exc:
            self._fail(exc)
        _wake(self._waiter)

    def on_room(self) -> None:
        """The transport takes writes again."""
        _wake(self._room)
        if self._finished:
            self._expect_head()

    def on_stalled(self) -> None:
        """Upstream reads no more. If it has answered already, its answer can still be read."""
        failure = UpstreamTimeout(f"upstream took nothing of the request for {self._timeouts.write:g} s", sent=True)
        self._write_failure = failure
        if self._reader.head is None:
            self._fail(failure)
        _wake(self._room)

    def on_overdue(self) -> None:
        """The response, or its next piece, is late."""
        if self._reader.head is None:
            what = f"did not answer within {self._patience:g} s"
        else:
            what = f"sent nothing of its response for {self._timeouts.read:g} s"
        self._fail(UpstreamTimeout(f"upstream {what}", sent=True))

    # Inside

    def _attach(self, conn: Connection) -> None:
        self._conn = conn
        self._unsent = self._request.data
        conn.exchange = self

    def _stale(self) -> bool:
        return bool(self._unsent) and self._conn.closing()

    def _repeatable(self) -> bool:
        return (
            self._conn.reused
            and self._finished
            and self._request.length == 0
            and not self._reader.started
            and not self._closed
            and self._method in REPEATABLE
            and isinstance(self._failure, ConnectionBroken)
        )

    async def _reopen(self) -> None:
        """Move to a new connection: nothing of the request has been sent, or it may be sent once more."""
        failure, self._failure = self._failure, None
        self._connections.discard(self._conn)
        try:
            conn = await self._connections.acquire_new(self._key)
        except BaseException as exc:
            self._failure = exc if isinstance(exc, ConnectFailed) else failure
            _wake(self._waiter)
            raise
        if self._closed:
            self._connections.discard(conn)
            raise ConnectionBroken("the call was closed", sent=False)
        self._attach(conn)

    def _send(self, data: bytes) -> None:
        if self._unsent:
            data = self._unsent + data
            self._unsent = b""
            if self._flush is not None:
                self._flush.cancel()
                self._flush = None
        self._conn.write(data)

    def _flush_head(self) -> None:
        self._flush = None
        if not self._conn.closing():
            self._send(b"")

    def _check_writable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._write_failure is not None:
            raise self._write_failure
        if not self._unsent and self._conn.closing():
            raise ConnectionBroken("upstream closed the connection before the request was complete", sent=True)

    def _misframed(self, mismatch: LengthMismatchError) -> ConnectionBroken:
        """Cut the connection: a request must never end where its head says that it does not (I7)."""
        error = ConnectionBroken(str(mismatch), sent=not self._unsent)
        self._fail(error)
        return error

    async def _wait_for_room(self) -> None:
        while self._conn.paused:
            self._room = self._conn.loop.create_future()
            try:
                await self._room
            finally:
                self._room = None
            self._check_writable()

    def _news(self) -> asyncio.Future[None]:
        """What is done when the connection has told something."""
        self._waiter = self._conn.loop.create_future()
        return self._waiter

    def _expect_head(self) -> None:
        if self._reader.head is None and not self._conn.paused:
            self._conn.overdue.start(self._patience)

    def _fail(self, failure: UpstreamError) -> None:
        """End the exchange with an error, and wake whoever waits for it. The first error counts."""
        if self._failure is None:
            self._failure = failure
        self._conn.cut()
        _wake(self._waiter)
        _wake(self._room)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
