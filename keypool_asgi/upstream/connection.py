"""One connection to upstream: an asyncio protocol that carries one exchange after the other."""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from .tls import TlsSession
from .watchdog import Watchdog

__all__ = ["Connection", "Exchange", "Key", "Owner"]

Key = tuple[str, str, int]
"""Scheme, host and port: what connections can be shared by."""

_PIECE = 256 * 1024


class Exchange(Protocol):
    """What a connection needs of the call that it carries."""

    def on_data(self, data: bytes) -> None:
        """Take response bytes."""

    def on_end(self, *, clean: bool) -> None:
        """No more bytes will come; clean unless the connection was reset or its TLS session cut short."""

    def on_room(self) -> None:
        """The transport takes writes again."""

    def on_stalled(self) -> None:
        """Upstream took nothing of what was written within the write timeout."""

    def on_overdue(self) -> None:
        """What ``overdue`` was started for has not come."""


class Owner(Protocol):
    """Who keeps account of a connection."""

    def on_made(self, conn: Connection) -> None:
        """It has a transport."""

    def on_lost(self, conn: Connection) -> None:
        """Its transport is closed."""


class Connection(asyncio.Protocol):
    """A TCP connection, with TLS if ``tls`` is given.

    Attributes:
        exchange: the call that it carries now, None while it is idle.
        overdue: the deadline of the response: its head, later its next piece.
        paused: whether the transport's buffer is full, so that writers should wait.
        gone: whether it is closed.
        reused: whether it has carried an exchange before.
        idle_since: loop time of its last exchange's end.
    """

    __slots__ = (
        "_owner",
        "_poll",
        "_reading_paused",
        "_ready",
        "_stalled",
        "_tls",
        "_transport",
        "_unsent",
        "_write_timeout",
        "exchange",
        "gone",
        "idle_since",
        "key",
        "loop",
        "overdue",
        "paused",
        "reused",
    )

    def __init__(
        self,
        key: Key,
        *,
        tls: TlsSession | None,
        write_timeout: float,
        owner: Owner,
    ) -> None:
        self.key = key
        self.loop = asyncio.get_running_loop()
        self.exchange: Exchange | None = None
        self.overdue = Watchdog(self.loop, self._on_overdue)
        self.paused = False
        self.gone = False
        self.reused = False
        self.idle_since = 0.0
        self._owner = owner
        self._tls = tls
        self._write_timeout = write_timeout
        self._stalled = Watchdog(self.loop, self._on_stalled)
        self._unsent = 0
        self._reading_paused = False
        self._transport: asyncio.Transport
        self._poll: Callable[[], bool] | None = None
        self._ready: asyncio.Future[None] | None = None

    # What calls and the client use

    async def handshake(self) -> None:
        """Wait until TLS is established.

        Raises:
            OSError: it failed, or the connection was closed.
        """
        tls = self._tls
        if tls is None:
            return
        if self.gone:
            raise ConnectionResetError("closed before the TLS handshake")
        self._ready = self.loop.create_future()
        tls.handshake()
        self._transport.write(tls.take_outgoing())
        await self._ready

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport, which sends or keeps them; see ``paused``."""
        if self._tls is not None:
            data = self._tls.encrypt(data)
        self._transport.write(data)

    def closing(self) -> bool:
        """Whether nothing can be written any more; true one step earlier than ``gone`` after a failed write."""
        return self.gone or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more until ``resume_reading``: TCP's window then stops upstream."""
        if not (self._reading_paused or self.gone):
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._reading_paused and not self.gone:
            self._reading_paused = False
            self._transport.resume_reading()

    def quiet(self) -> bool:
        """Whether it is open, and all that was written has been sent."""
        return not (self.closing() or self._transport.get_write_buffer_size())

    def reusable(self) -> bool:
        """Whether another request may go out: it is open, and nothing unasked has come.

        Upstream's FIN or RST is data, too: this one look at the socket keeps requests, above all those that must not
        be sent twice, off connections that upstream has closed.
        """
        if self.closing():
            return False
        if self._poll is None:
            self._poll = _poller(self._transport.get_extra_info("socket").fileno())
        return not self._poll()

    def cut(self) -> None:
        """Close at once, without a proper end: what was not complete must not look complete (I7)."""
        if not self.gone:
            self.gone = True
            self._transport.abort()

    def retire(self) -> None:
        """Close an idle connection, with a closure alert where there is TLS (RFC 9112, section 9.8)."""
        if self._tls is not None and not self.gone:
            self._transport.write(self._tls.close())
        self.cut()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._owner.on_made(self)

    def data_received(self, data: bytes) -> None:
        """Give bytes to the exchange. Bytes that nobody asked for make a connection useless (RFC 9112, section 9.2)."""
        tls = self._tls
        if tls is not None:
            data = self._decrypt(tls, data)
        if data:
            if self.exchange is None:
                self.cut()
            else:
                self.exchange.on_data(data)
        if tls is not None and tls.closed:
            self._end(clean=True)

    def eof_received(self) -> None:
        """Upstream has closed its side. None of our exchanges has anything to say after that."""
        self._end(clean=self._tls is None or self._tls.closed)

    def connection_lost(self, exc: Exception | None) -> None:
        """Save what has arrived, tell the exchange, and leave the client."""
        self.gone = True
        if exc is not None and self.exchange is not None:
            self._rescue()
        self._stalled.cancel()
        self.overdue.cancel()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(exc or ConnectionResetError("closed during the TLS handshake"))
        self._end(clean=False)
        self._owner.on_lost(self)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._stalled.start(self._write_timeout)

    def resume_writing(self) -> None:
        """The transport's buffer has emptied."""
        self.paused = False
        self._stalled.stop()
        if self.exchange is not None:
            self.exchange.on_room()

    # Inside

    def _end(self, *, clean: bool) -> None:
        exchange = self.exchange
        self.cut()
        if exchange is not None:
            exchange.on_end(clean=clean)

    def _decrypt(self, tls: TlsSession, data: bytes) -> bytes:
        try:
            plain = tls.decrypt(data)
        except ssl.SSLError as exc:
            if self._ready is not None and not self._ready.done():
                self._ready.set_exception(exc)
            self._transport.write(tls.take_outgoing())
            self._end(clean=False)
            return b""
        outgoing = tls.take_outgoing()
        if outgoing and not self.gone:
            self._transport.write(outgoing)
        if tls.established and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        return plain

    def _rescue(self) -> None:
        """Read what had arrived before a write failed: an early answer is often followed by a reset.

        Event loops close the transport at a failed write without a look at the read side, but the socket is open until
        this callback returns. What the kernel holds is bounded by the socket's receive buffer.
        """
        descriptor = self._transport.get_extra_info("socket").fileno()
        try:
            while data := os.read(descriptor, _PIECE):
                self.data_received(data)
        except OSError:
            return

    def _on_stalled(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:  # slow, but not stalled
            self._unsent = unsent
            self._stalled.start(self._write_timeout)
        elif self.exchange is not None:
            self.exchange.on_stalled()

    def _on_overdue(self) -> None:
        if self.exchange is not None:
            self.exchange.on_overdue()


def _poller(descriptor: int) -> Callable[[], bool]:
    """A function that tells at once whether a socket has anything to read, its end included."""
    if not hasattr(select, "poll"):
        return lambda: bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda: bool(poll.poll(0))
