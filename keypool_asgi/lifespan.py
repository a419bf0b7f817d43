"""Lifespan: run something of our own at the startup and shutdown of a host app, or answer for a host that has neither."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keypool_asgi.asgi import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Lifespan"]

Step = Callable[[], Awaitable[None]]


class Lifespan:
    """Serves the ``lifespan`` scope (ASGI specification, lifespan protocol).

    Args:
        host: the host app, whose own lifespan is kept; None when there is none.
        startup: awaited before the host starts.
        stopping: awaited when shutdown begins, before the host's own.
        shutdown: awaited after the host's own shutdown.
    """

    def __init__(self, host: ASGIApp | None, *, startup: Step, stopping: Step, shutdown: Step) -> None:
        self.host = host
        self.startup = startup
        self.stopping = stopping
        self.shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accompany the host through its lifespan, or go through it alone."""
        asked = False

        async def receive_step() -> Message:
            nonlocal asked
            asked = True
            message = await receive()
            await (self.startup if message["type"] == "lifespan.startup" else self.stopping)()
            return message

        async def send_step(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                await self.shutdown()
            await send(message)

        if self.host is not None:
            try:
                await self.host(scope, receive_step, send_step)
            except Exception:
                # A host without lifespan (Django) raises before it asks for anything; any other error is its own.
                if asked:
                    raise
            else:
                return
        await _answer(receive_step, send_step)


async def _answer(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
