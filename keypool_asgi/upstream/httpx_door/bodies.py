"""Request and response bodies as httpx streams: one piece at a time, and honest about their ends (I4, I7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

from keypool_asgi.errors import ConnectionBroken, ProtocolViolation
from keypool_asgi.upstream.response import Body, Framing

__all__ = ["Incoming", "Outgoing"]


class Outgoing(httpx.AsyncByteStream):
    """A request body with room for one piece: who writes waits until the transport has taken the piece before."""

    def __init__(self) -> None:
        self._piece: bytes | None = None
        self._ended = False
        self._abandoned = False
        self._taker: asyncio.Future[None] | None = None
        self._giver: asyncio.Future[None] | None = None

    async def put(self, data: bytes) -> None:
        """Leave a piece as soon as there is room, or nobody wants it any more."""
        while self._piece is not None and not self._abandoned:
            self._giver = asyncio.get_running_loop().create_future()
            try:
                await self._giver
            finally:
                self._giver = None
        self._piece = data
        _wake(self._taker)

    def end(self) -> None:
        """Say that no piece will follow."""
        self._ended = True
        _wake(self._taker)

    def abandon(self) -> None:
        """Make the transport's request fail: it must never look complete (I7)."""
        self._abandoned = True
        _wake(self._taker)
        _wake(self._giver)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._piece is None and not self._ended and not self._abandoned:
            self._taker = asyncio.get_running_loop().create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        if self._abandoned:
            raise httpx.WriteError("the caller abandoned the request")
        if self._piece is None:
            raise StopAsyncIteration
        data, self._piece = self._piece, None
        _wake(self._giver)
        return data


class Incoming:
    """A response body that is held to its declared length, whatever the transport makes of it (I7)."""

    def __init__(self, response: httpx.Response, framing: Framing) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("the transport's response has no asynchronous stream")
        self._stream = response.stream
        self._pieces = aiter(response.stream)
        self._missing = framing.length if framing.body is Body.LENGTH else None
        self.ended = False

    async def read(self) -> tuple[bytes, bool]:
        """Return the next piece, and whether more follows.

        Raises:
            UpstreamError: it is shorter or longer than declared.
            httpx.HTTPError: the transport failed.
        """
        data = await self._next()
        if data and self._missing == 0:
            await self._next()  # it can only be the end, and transports keep a connection that was read to the end
        return data, not self.ended

    async def aclose(self) -> None:
        """Let the transport close what was not read to its end."""
        await self._stream.aclose()

    async def _next(self) -> bytes:
        """Return the next piece that is not empty, and nothing at the end."""
        if self.ended:
            return b""
        async for data in self._pieces:
            if data:
                self._count(data)
                return data
        if self._missing:
            raise ConnectionBroken("upstream closed the connection before the end of its response", sent=True)
        self.ended = True
        await self._stream.aclose()
        return b""

    def _count(self, data: bytes) -> None:
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0:
                raise ProtocolViolation("upstream's response is longer than its Content-Length", sent=True)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
