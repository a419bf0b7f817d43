"""Runs the server, in a thread with an event loop of its own or in the loop that is running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .server import Server

__all__ = ["Runner"]


class Runner:
    """Starts and stops one server at a time; the second start takes the port of the first.

    Args:
        make: makes a server; called in the event loop that will run it.
        host: the address to listen on.
        port: 0 takes a free one.
    """

    def __init__(self, make: Callable[[], Server], *, host: str, port: int) -> None:
        self._make, self._host, self._port = make, host, port
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def server(self) -> Server:
        """The server that is running.

        Raises:
            RuntimeError: none is.
        """
        if self._server is None:
            raise RuntimeError("the simulator is not running: use running(), serving() or start()")
        return self._server

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run in the current event loop."""
        if self._server is not None:
            raise RuntimeError("the simulator is running already")
        server = self._make()
        self._port = await server.start(self._host, self._port)
        self._server = server
        try:
            yield
        finally:
            self._server = None
            await server.stop()

    def start(self) -> None:
        """Start in a thread; returns when the server listens."""
        if self._server is not None or self._thread is not None:
            raise RuntimeError("the simulator is running already")
        ready = threading.Event()
        failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(ready, failures), name="simulator", daemon=True)
        self._thread.start()
        ready.wait()
        if failures:
            self._thread.join()
            self._thread = None
            raise failures[0]

    def stop(self) -> None:
        """Stop the thread; connections are cut. Idempotent."""
        if self._thread is None or self._server is None or self._stopping is None:
            return
        self._server.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._stopping = None

    def _run(self, ready: threading.Event, failures: list[BaseException]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 # it is raised again in the thread that called start()
            failures.append(error)
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        async with self.serving():
            ready.set()
            await self._stopping.wait()
