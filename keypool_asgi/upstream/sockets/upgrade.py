"""The opening handshake on a connection."""

from __future__ import annotations

import asyncio
from typing import Final

from keypool_asgi.core.sessions import SessionLimits
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, UpstreamError, UpstreamTimeout
from keypool_asgi.upstream.connection import Connection
from keypool_asgi.upstream.request import EncodedRequest

from .frames import FrameWriter
from .handshake import AnswerReader
from .socket import NativeSocket

__all__ = ["OpeningSocket"]

REFUSAL_SECONDS: Final = 2.0
"""Seconds that the body of an answer other than 101 may take once its head has come; then it counts as complete."""


class OpeningSocket:
    """A connection (an ``Exchange`` of it) from the upgrade request to the answer.

    The socket that comes of it takes the connection over in the moment in which the answer has come, so that no byte
    that follows the answer is lost.
    """

    __slots__ = ("_answer", "_conn", "_frames", "_last_words", "_limits", "_opened")

    def __init__(
        self, conn: Connection, accept: bytes, limits: SessionLimits, frames: FrameWriter, last_words: str | None = None
    ) -> None:
        self._conn = conn
        self._frames = frames
        self._last_words = last_words
        self._answer = AnswerReader(accept)
        self._limits = limits
        self._opened: asyncio.Future[NativeSocket] = conn.loop.create_future()
        conn.exchange = self

    async def opened(self, request: EncodedRequest) -> NativeSocket:
        """Send the request, and wait for the answer.

        Raises:
            ConnectFailed: the connection was closed before anything was sent.
            UpgradeRefused: an ordinary response came.
            UpstreamError: the connection ended, or the answer is malformed.
        """
        if self._conn.closing():
            raise ConnectFailed("the connection was closed before the upgrade request was sent")
        self._conn.write(request.data)
        return await self._opened

    def late(self, seconds: float) -> UpstreamError:
        """Return what to say when the time is over: that it is, or as much of an ordinary answer as has come."""
        if self._answer.refused:
            return self._answer.refusal()
        return UpstreamTimeout(f"upstream did not answer the upgrade within {seconds:g} s", sent=True)

    # What the connection tells

    def on_data(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self._opened.done():
            return
        try:
            rest = self._answer.feed(data)
        except UpstreamError as exc:
            self._fail(exc.with_traceback(None))  # without the frames that hold what was received (I2)
            return
        if rest is not None:
            self._conn.overdue.stop()
            socket = NativeSocket(self._conn, self._limits, self._frames, rest, last_words=self._last_words)
            self._opened.set_result(socket)
        elif self._answer.ended:
            self._fail(self._answer.refusal())
        elif self._answer.refused:
            self._conn.overdue.start(REFUSAL_SECONDS)

    def on_end(self, *, clean: bool) -> None:  # noqa: ARG002 # the body of a refusal may end in any way
        """The connection has ended."""
        if self._answer.refused:
            self._fail(self._answer.refusal())
        else:
            self._fail(ConnectionBroken("upstream closed the connection without an answer to the upgrade", sent=True))

    def on_room(self) -> None:
        """The transport takes writes again."""

    def on_stalled(self) -> None:
        """Upstream takes nothing of the request."""
        self._fail(UpstreamTimeout("upstream took nothing of the upgrade request", sent=True))

    def on_overdue(self) -> None:
        """The body of an ordinary answer is late."""
        self._fail(self._answer.refusal())

    def _fail(self, error: UpstreamError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # whoever waited may have been cancelled in the same moment
