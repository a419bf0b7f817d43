"""Lifespan: steps of our own at the startup and shutdown of a host app, or in the place of a host that has neither."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from keypool_asgi.asgi import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Lifespan"]

logger = logging.getLogger("keypool_asgi")

Step = Callable[[], Awaitable[None]]


class Lifespan:
    """Serves the ``lifespan`` scope (ASGI specification, lifespan protocol).

    Args:
        host: the host app, whose own lifespan is kept; None when there is none.
        startup: awaited before the host starts. If it raises, the server is told so and does not start.
        stopping: awaited when shutdown begins, before the host's own.
        shutdown: awaited after the host's own shutdown, and when a startup has failed, ours or the host's.
    """

    def __init__(self, host: ASGIApp | None, *, startup: Step, stopping: Step, shutdown: Step) -> None:
        self.host = host
        self.startup = startup
        self.stopping = stopping
        self.shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accompany the host through its lifespan, and go alone where it does not."""
        course = _Course(self, receive, send)
        if not await course.begin():
            return
        if self.host is not None:
            try:
                await self.host(scope, course.receive, course.send)
            except Exception:
                # A host without lifespan (Django) raises before it asks for anything; any other error is its own.
                if course.asked:
                    await course.close()
                    raise
        await course.finish()


class _Course:
    """One lifespan from its startup to its end.

    Attributes:
        asked: whether the host has asked for a message.
    """

    def __init__(self, steps: Lifespan, receive: Receive, send: Send) -> None:
        self.asked = False
        self._steps = steps
        self._receive = receive
        self._send = send
        self._first: Message = {}
        self._open = False
        self._started = False
        self._stopping = False
        self._over = False

    async def begin(self) -> bool:
        """Do our first step. Returns whether it succeeded; else the server knows that it must not start."""
        self._first = await self._receive()
        self._open = True
        try:
            await self._steps.startup()
        except Exception as error:
            # To raise here would look like a host without lifespan, and leave the host's own startup out.
            logger.exception("startup failed")
            await self.send({"type": "lifespan.startup.failed", "message": str(error)})
            return False
        return True

    async def receive(self) -> Message:
        """Give the host the server's next message; shutdown once our own step for it is done."""
        if not self.asked:
            self.asked = True
            return self._first
        return await self._stop()

    async def _stop(self) -> Message:
        message = await self._receive()
        self._stopping = True
        await self._steps.stopping()
        return message

    async def send(self, message: Message) -> None:
        """Answer the server; the last answer once our own last step is done."""
        self._started = True
        if message["type"] != "lifespan.startup.complete":
            self._over = True
            await self.close()
        await self._send(message)

    async def close(self) -> None:
        """Do our last step, once."""
        if self._open:
            self._open = False
            await self._steps.shutdown()

    async def finish(self) -> None:
        """Answer what the host has left unanswered: nothing, the shutdown, or all of it."""
        if not self._started:
            await self.send({"type": "lifespan.startup.complete"})
        if not self._over:
            if not self._stopping:
                await self._stop()
            await self.send({"type": "lifespan.shutdown.complete"})
