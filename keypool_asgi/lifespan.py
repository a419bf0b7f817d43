"""Lifespan: steps of our own at the startup and shutdown of a host app, or in the place of a host that has neither."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keypool_asgi.asgi import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Lifespan"]

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
        """Accompany the host through its lifespan, and go alone where it does not."""
        course = _Course(self, receive, send)
        if self.host is not None:
            try:
                await self.host(scope, course.receive, course.send)
            except Exception:
                # A host without lifespan (Django) raises before it asks for anything; any other error is its own.
                if course.begun:
                    await course.close()
                    raise
        await course.finish()


class _Course:
    """One lifespan from its startup to its end.

    Attributes:
        begun: whether the server's first message has been asked for.
    """

    def __init__(self, steps: Lifespan, receive: Receive, send: Send) -> None:
        self.begun = False
        self._steps = steps
        self._receive = receive
        self._send = send
        self._question = ""  # of the server's, not yet answered
        self._open = False
        self._over = False

    async def receive(self) -> Message:
        """Return the server's next message, once our own step for it is done."""
        self.begun = True
        message = await self._receive()
        self._question = message["type"]
        if self._question == "lifespan.startup":
            await self._start()
        else:
            await self._steps.stopping()
        return message

    async def _start(self) -> None:
        self._open = True
        try:
            await self._steps.startup()
        except Exception as error:
            # An error alone could also mean that there is no lifespan here, and servers would go on without.
            await self.send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            raise

    async def send(self, message: Message) -> None:
        """Answer the server. After a failure of ours, what the host has to say about it is not said again."""
        if self._over:
            return
        self._question = ""
        if message["type"] != "lifespan.startup.complete":
            self._over = True
            await self.close()
        await self._send(message)

    async def close(self) -> None:
        """Do the last step, once."""
        if self._open:
            self._open = False
            await self._steps.shutdown()

    async def finish(self) -> None:
        """Answer whatever the host has left unanswered: all of it, or the shutdown."""
        while not self._over:
            if not self._question:
                await self.receive()
            await self.send({"type": f"{self._question}.complete"})
