"""One TCP connection: bytes in and out with back-pressure, and every way to end it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import cast

__all__ = ["Wire", "WireLost"]

_HIGH_WATER = 262_144
_LINGER = 1.0


class WireLost(Exception):
    """The client has gone away."""


class Wire(asyncio.Protocol):
    """A connection. Unlike a stream it can be reset, and it tells at once when the other side goes away."""

    def __init__(self, connected: Callable[[Wire], None]) -> None:
        self._connected = connected
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio calls this when the connection is made."""
        self._transport = cast("asyncio.Transport", transport)
        self._connected(self)

    def data_received(self, data: bytes) -> None:
        """Asyncio calls this when bytes have come."""
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > _HIGH_WATER:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Asyncio calls this at a FIN. We keep our side open, which TLS cannot: an answer can still be sent."""
        self.gone.set()
        self._arrived.set()
        return self._transport is not None and self._transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 # asyncio's signature
        """Asyncio calls this when the connection has ended, either way."""
        self.gone.set()
        self._ended.set()
        self._arrived.set()
        self._writable.set()
        self._transport = None

    def pause_writing(self) -> None:
        """Asyncio calls this when the client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Asyncio calls this when the client has caught up."""
        self._writable.set()

    @property
    def transport(self) -> asyncio.Transport:
        """The live transport.

        Raises:
            WireLost: the connection has ended.
        """
        if self._transport is None:
            raise WireLost
        return self._transport

    @property
    def pending(self) -> bool:
        """Whether bytes have come that nobody has read."""
        return bool(self._buffer)

    async def read(self, most: int = 65_536) -> bytes:
        """Return the next bytes, at most so many; none at the end of what the client sends."""
        while not self._buffer and not self.gone.is_set():
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        if len(self._buffer) <= _HIGH_WATER // 2 and self._transport is not None and not self.gone.is_set():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when there is room for more.

        Raises:
            WireLost: the connection has ended.
        """
        transport = self.transport
        if transport.is_closing():  # a failed write: asyncio tells of the end a step later
            await self.gone.wait()
            raise WireLost
        transport.write(data)
        await self._writable.wait()
        _ = self.transport

    async def pause(self, seconds: float | None, event: asyncio.Event | None = None) -> None:
        """Wait for ``seconds`` (None: without end), or until ``event``.

        Raises:
            WireLost: the client went away meanwhile.
        """
        waits = [asyncio.ensure_future(self.gone.wait())]
        if event is not None:
            waits.append(asyncio.ensure_future(event.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self.gone.is_set() and (event is None or not event.is_set()):
            raise WireLost

    async def reset(self) -> None:
        """End the connection with an RST, once the client has had what was sent."""
        with suppress(WireLost):
            await self._flush()
            # The client must have read what came before, or the RST would take it away.
            await asyncio.sleep(0.02)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    async def close(self) -> None:
        """End the connection with a FIN, and read for a while what still comes, so that it does not become an RST."""
        with suppress(WireLost, TimeoutError):
            if not self.gone.is_set() and self.transport.can_write_eof():
                self.transport.write_eof()
                async with asyncio.timeout(_LINGER):
                    while await self.read():
                        pass
            self.transport.close()
            await asyncio.wait_for(self._ended.wait(), _LINGER)
        self.abort()

    def abort(self) -> None:
        """End the connection now. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    async def _flush(self) -> None:
        # Limits of 0 would tell when it is empty, but under TLS they pause for ever.
        while self.transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
