"""One connection: reads requests with h11, has them answered, and plays their faults."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import h11

from .exchange import Ended, Exchange
from .records import Recorded
from .sockets import handshake
from .sockets.upgrade import Upgrade, is_socket
from .wire import Wire, WireLost

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Connection"]

_MAX_HEAD = 131_072
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connection:
    """A connection from its first byte to its last."""

    def __init__(self, server: Server, wire: Wire) -> None:
        self.server = server
        self.wire = wire
        self.number = server.recorder.connection()
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._head = bytearray()
        self.idle = True

    async def run(self) -> None:
        """Serve requests until one side ends the connection."""
        try:
            how = self.server.rules.pick_connection()
            if how is not None:
                await (self.wire.reset() if how == "reset" else self.wire.close())
                return
            with suppress(WireLost, Ended):
                while await self._serve():
                    pass
                await self.wire.close()
        finally:
            self.wire.abort()

    async def _serve(self) -> bool:
        self.idle = True
        try:
            head = await self._next_head()
        except h11.RemoteProtocolError as error:
            await self._malformed(str(error))
            return False
        if head is None:
            return False
        self.idle = False
        exchange = self._exchange(head)
        return await exchange.run() and self._recycle()

    async def event(self, most: int = 65_536) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event of the request; reads at most ``most`` bytes at a time.

        Raises:
            WireLost: the client stopped in the middle of a request.
            h11.RemoteProtocolError: it broke the protocol.
        """
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            data = await self.wire.read(most)
            if not data:
                raise WireLost
            self._parser.receive_data(data)
        return event

    def detach(self) -> bytes:
        """Return what has come after the request, whose connection is no longer HTTP's."""
        return self._parser.trailing_data[0]

    @property
    def waits_for_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body."""
        return self._parser.they_are_waiting_for_100_continue

    @property
    def leftover(self) -> bool:
        """Whether bytes have come after the end of the request, before it was answered."""
        return bool(self._parser.trailing_data[0]) or self.wire.pending

    def _exchange(self, head: h11.Request) -> Exchange:
        upgrade = handshake.wants_upgrade(list(head.headers)) and is_socket(head.target)
        return Upgrade(self, head) if upgrade else Exchange(self, head)

    async def _next_head(self) -> h11.Request | None:
        self._head.clear()
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            try:
                async with asyncio.timeout(self.server.settings.keep_alive):
                    data = await self.wire.read()
            except TimeoutError:
                return None
            if not data:
                if self._head:
                    await self._malformed("the connection ended within the head of a request")
                return None
            self._head += data[: max(0, _MAX_HEAD - len(self._head))]
            self._parser.receive_data(data)
        return event if isinstance(event, h11.Request) else None

    async def _malformed(self, why: str) -> None:
        recorder = self.server.recorder
        record = Recorded(
            number=recorder.next_number(),
            connection=self.number,
            service="",
            region="",
            method="",
            target="",
            path="",
            headers=[],
            key=None,
            project=None,
            started=self.server.settings.clock(),
            body=bytes(self._head),
            body_size=len(self._head),
            status=400,
        )
        recorder.add(record)
        recorder.close(record, "malformed")
        recorder.violation(f"malformed request: {why}")
        with suppress(WireLost):
            await self.wire.write(_BAD_REQUEST)

    def _recycle(self) -> bool:
        rest, _ = self._parser.trailing_data
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        if rest:
            self._parser.receive_data(rest)
        return True
