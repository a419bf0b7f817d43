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
        shutdown: awaited after the host's own shutdown, and when the startup has failed.
    """

    def __init__(self, host: ASGIApp | None, *, startup: Step, stopping: Step, shutdown: Step) -> None:
        self.host = host
        self.startup = startup
        self.stopping = stopping
        self.shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accompany the host through its lifespan, or go through it alone."""
        message = await receive()
        try:
            await self.startup()
        except Exception as error:
            # To raise here would look like a host without lifespan, and leave the host's own startup out.
            logger.exception("startup failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        if self.host is None or not await self._accompany(self.host, scope, message, receive, send):
            await self._go_alone(receive, send)

    async def _accompany(self, host: ASGIApp, scope: Scope, first: Message, receive: Receive, send: Send) -> bool:
        """Run the host's lifespan around ours. Returns whether it has one: Django's raises before it asks for anything."""
        asked = False

        async def receive_step() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return first
            message = await receive()
            await self.stopping()
            return message

        async def send_step(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                await self.shutdown()
            await send(message)

        try:
            await host(scope, receive_step, send_step)
        except Exception:
            if asked:
                raise
        return asked

    async def _go_alone(self, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stopping()
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})
