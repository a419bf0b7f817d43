"""Connections by origin, the last used one first, and whose turn it is when there may be no more of them.

Decisions are synchronous, so no lock is needed: an ``await`` stands only where a connection is made or waited for.

- The free list is a stack. Hot connections stay warm, cold ones sink and expire in order of their age.
- ``connection_lost`` takes a connection out; nothing is polled but the one connection that is about to be used.
- With ``max_connections``, a slot or a connection that becomes free goes straight to the longest waiting caller.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field

from keypool_asgi.errors import ConnectFailed

from .connection import Connection, Key
from .dial import connect_socket
from .settings import Timeouts
from .tls import TlsSession, default_context

__all__ = ["Connections"]

_Grant = Connection | None
"""What a waiter gets: a connection to use, or None for the right to make one."""


@dataclass(slots=True)
class _Bucket:
    """The connections of one origin; ``count`` has those that are idle, in use and being made."""

    idle: list[Connection] = field(default_factory=list)
    waiters: deque[asyncio.Future[_Grant]] = field(default_factory=deque)
    count: int = 0

    def hand_over(self, grant: _Grant) -> bool:
        """Give something to the longest waiting caller that still waits."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(grant)
                return True
        return False

    def free(self) -> None:
        """Pass the right to make one connection on, or keep it for the next who comes."""
        if not self.hand_over(None):
            self.count -= 1


class Connections:
    """The connections of one client. Bound to the running event loop: on another one it starts empty."""

    def __init__(
        self, *, timeouts: Timeouts, max_connections: int | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._timeouts = timeouts
        self._max = max_connections
        self._ssl_context = ssl_context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buckets: dict[Key, _Bucket] = {}
        self._slots: dict[Connection, _Bucket] = {}
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._epoch = 0

    def take_idle(self, key: Key) -> Connection | None:
        """Take the last used idle connection that is fit for use, if there is one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        bucket = self._buckets.get(key)
        if bucket is None:
            return None
        while bucket.idle:
            conn = bucket.idle.pop()
            if self._fit(conn, loop.time()):
                return conn
            self.discard(conn)
        return None

    async def acquire_new(self, key: Key, *, reuse: bool = False) -> Connection:
        """Make a connection; if others must be waited for, and ``reuse`` is true, one of theirs will do.

        Raises:
            ConnectFailed: no connection could be made, or none became free, within the connect timeout.
        """
        bucket = self._buckets.setdefault(key, _Bucket())
        while True:
            if self._max is None or bucket.count < self._max:
                bucket.count += 1
                break
            conn = await self._wait_turn(bucket, key)
            if conn is None:
                break
            if reuse and not conn.closing():
                return conn
            owned = self._slots.pop(conn, None) is not None  # else it was lost, and its slot is another's by now
            conn.retire()
            if owned:
                break
        return await self._connect(key, bucket)

    def release(self, conn: Connection) -> None:
        """Give back a connection whose exchange is complete."""
        conn.exchange = None
        conn.overdue.stop()
        conn.resume_reading()
        bucket = self._slots.get(conn)
        if bucket is None or not conn.quiet():
            self.discard(conn)
            return
        conn.reused = True
        conn.idle_since = conn.loop.time()
        if not bucket.hand_over(conn):
            bucket.idle.append(conn)
            if self._sweeper is None:
                self._sweeper = conn.loop.call_later(self._timeouts.idle, self._sweep)

    def discard(self, conn: Connection) -> None:
        """Cut a connection, and pass on its slot."""
        conn.exchange = None
        self._free_slot(conn)
        conn.cut()

    async def aclose(self) -> None:
        """Close every connection and fail every waiting caller; returns when no transport is open."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        self._epoch += 1
        for bucket in self._buckets.values():
            for waiter in bucket.waiters:
                if not waiter.done():
                    waiter.set_exception(ConnectFailed("the client was closed"))
            bucket.waiters.clear()
        for conn in list(self._open):
            conn.retire() if conn.exchange is None else conn.cut()
        self._stop_sweeper()
        if self._open:
            self._emptied = self._emptied or loop.create_future()
            await asyncio.shield(self._emptied)

    # What connections tell

    def on_made(self, conn: Connection) -> None:
        """Count a transport as open from its first moment, so that ``aclose`` leaves none."""
        self._open.add(conn)

    def on_lost(self, conn: Connection) -> None:
        """Forget a connection that has closed, by whatever cause."""
        self._open.discard(conn)
        bucket = self._slots.get(conn)
        if bucket is not None and conn in bucket.idle:
            bucket.idle.remove(conn)
        self._free_slot(conn)
        if self._emptied is not None and not self._open:
            self._emptied.set_result(None)
            self._emptied = None

    # Inside

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start empty on this loop; what belongs to another loop cannot be used, nor closed, from here."""
        self._stop_sweeper()
        self._loop = loop
        self._buckets = {}
        self._slots = {}
        self._open = set()
        self._emptied = None

    def _fit(self, conn: Connection, now: float) -> bool:
        return now - conn.idle_since < self._timeouts.idle and conn.reusable()

    async def _wait_turn(self, bucket: _Bucket, key: Key) -> _Grant:
        waiter: asyncio.Future[_Grant] = asyncio.get_running_loop().create_future()
        bucket.waiters.append(waiter)
        try:
            async with asyncio.timeout(self._timeouts.connect):
                return await waiter
        except BaseException as exc:
            self._give_back(bucket, waiter)
            if isinstance(exc, TimeoutError):
                raise ConnectFailed(f"all {self._max} connections to {key[1]} are in use") from None
            raise

    def _give_back(self, bucket: _Bucket, waiter: asyncio.Future[_Grant]) -> None:
        """Leave the queue; what was granted in the same moment goes to the next one."""
        if not waiter.done() or waiter.cancelled():
            waiter.cancel()
            if waiter in bucket.waiters:
                bucket.waiters.remove(waiter)
        elif waiter.exception() is None:
            conn = waiter.result()
            if conn is not None:
                self.release(conn)
            else:
                bucket.free()

    async def _connect(self, key: Key, bucket: _Bucket) -> Connection:
        """Make a connection in a slot that is already counted."""
        epoch = self._epoch
        try:
            conn = await self._dial(key)
        except BaseException:
            bucket.free()
            raise
        if epoch != self._epoch:
            bucket.free()
            conn.cut()
            raise ConnectFailed("the client was closed")
        self._slots[conn] = bucket
        return conn

    async def _dial(self, key: Key) -> Connection:
        where = f"{key[1]}:{key[2]}"
        try:
            async with asyncio.timeout(self._timeouts.connect):
                return await self._open_connection(key)
        except TimeoutError:
            raise ConnectFailed(f"no connection to {where} within {self._timeouts.connect:g} s") from None
        except ssl.SSLError as exc:
            raise ConnectFailed(f"no TLS connection to {where}: {exc}") from exc
        except (OSError, UnicodeError) as exc:
            raise ConnectFailed(f"no connection to {where}: {exc}") from exc

    async def _open_connection(self, key: Key) -> Connection:
        scheme, host, port = key
        loop = asyncio.get_running_loop()
        tls = TlsSession(self._context(), host) if scheme == "https" else None
        sock = await connect_socket(host, port)
        conn = Connection(key, tls=tls, write_timeout=self._timeouts.write, owner=self)
        try:
            await loop.create_connection(lambda: conn, sock=sock)
            await conn.handshake()
        except BaseException:
            conn.cut()
            self.on_lost(conn)  # uvloop does not tell this of a connection whose making was cancelled
            raise
        return conn

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = default_context()
        return self._ssl_context

    def _free_slot(self, conn: Connection) -> None:
        bucket = self._slots.pop(conn, None)  # at most once for each connection
        if bucket is not None:
            bucket.free()

    def _sweep(self) -> None:
        """Retire what has been idle too long, and come back for the next one."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        limit = loop.time() - self._timeouts.idle
        oldest: list[float] = []
        for bucket in self._buckets.values():
            while bucket.idle and bucket.idle[0].idle_since <= limit:
                conn = bucket.idle.pop(0)
                self._free_slot(conn)
                conn.retire()
            oldest.extend(conn.idle_since for conn in bucket.idle[:1])
        if oldest:
            self._sweeper = loop.call_at(min(oldest) + self._timeouts.idle, self._sweep)

    def _stop_sweeper(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
