"""The listening socket and its connections, in whatever event loop runs it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from .connection import Connection
from .faults import Rules
from .records import Recorder
from .routes import SERVICES
from .sockets.sessions import Ledger
from .values import Service
from .wire import Wire
from .world import World

__all__ = ["Gate", "Server", "Settings"]


@dataclass(slots=True)
class Settings:
    """Conduct of the server; may be changed while it runs.

    Attributes:
        clock: returns Unix time in seconds.
        keep_body: how many bytes of the beginning of each body are recorded.
        keep_alive: seconds for which an idle connection is kept.
        compress: use gzip where the client takes it.
        chunked: use chunks for every response body.
        echo: sessions over WebSocket begin as always, and then return every message and the close as they came.
        deflate: accept permessage-deflate, where it is offered.
        refuse_in_band: sessions are refused with an error after the 101; otherwise with an HTTP status.
        tokens_once: a temporary token opens one session; otherwise as many as its window allows.
        audio_ahead: seconds by which audio may be ahead of the clock; None lets it come as fast as it likes.
        keep_messages: how many of the last messages of a session are kept, of a megabyte at most.
    """

    clock: Callable[[], float]
    keep_body: int = 65_536
    keep_alive: float = 60.0
    compress: bool = False
    chunked: bool = False
    echo: bool = False
    deflate: bool = False
    refuse_in_band: bool = True
    tokens_once: bool = False
    audio_ahead: float | None = None
    keep_messages: int = 1000


# A connection that was accepted a moment ago is made by the loop in its next steps; only then can it be cut.
_STEPS_TO_ACCEPT = 5


class Gate:
    """Where stalled exchanges wait. May be opened from any thread; those that come later wait for the next time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def event(self) -> asyncio.Event:
        """Return the event that the next opening sets."""
        return self._event

    def open(self) -> None:
        """Let go of everybody who waits."""
        self._loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        self._event.set()
        self._event = asyncio.Event()


class Server:
    """Accepts connections until it is stopped.

    Attributes:
        lock: held while the world is read or changed, since tests do both from their own thread.
    """

    def __init__(
        self,
        world: World,
        *,
        settings: Settings,
        recorder: Recorder,
        ledger: Ledger,
        rules: Rules,
        lock: threading.RLock,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.world, self.settings, self.recorder, self.rules, self.lock = world, settings, recorder, rules, lock
        self.ledger, self.tls = ledger, tls
        self.loop = asyncio.get_running_loop()
        self.gate = Gate(self.loop)
        self.authority = b""
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        patience = None if self.tls is None else 1.0
        self._listener = await self.loop.create_server(
            lambda: Wire(self._accept), host, port, ssl=self.tls, ssl_shutdown_timeout=patience
        )
        port = self._listener.sockets[0].getsockname()[1]
        self.authority = f"{host}:{port}".encode()
        return port

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._listener is not None:
            self._listener.close()
        for _ in range(_STEPS_TO_ACCEPT):
            await asyncio.sleep(0)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The transports close their sockets in a callback of the loop.
        await asyncio.sleep(0)
        if self._listener is not None:
            await self._listener.wait_closed()

    def close_idle(self) -> None:
        """Close the connections that are between two requests, as a server may do at any time."""
        self.loop.call_soon_threadsafe(self._close_idle)

    def base(self, service: Service, region: str) -> str:
        """Return the absolute URL of a service."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{self.authority.decode()}{'/eu' if region == 'eu' else ''}{SERVICES[service]}"

    def _accept(self, wire: Wire) -> None:
        connection = Connection(self, wire)
        task = self.loop.create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "the simulator failed", "exception": error, "task": task})
            self.recorder.violation(f"the simulator itself failed: {error!r}")

    def _close_idle(self) -> None:
        for task, connection in list(self._connections.items()):
            if connection.idle:
                task.cancel()
