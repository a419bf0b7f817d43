"""The bounded peek: a request body that can be sent again as long as it was short."""

from __future__ import annotations

from keypool_asgi.asgi import Message, Receive

__all__ = ["ReplayableBody"]


class ReplayableBody:
    """A ``receive`` that remembers the body that it gave out, up to a number of bytes, and can begin again.

    The body is kept as bytes, not as messages: a caller who sends it one byte at a time costs no more memory.

    Args:
        receive: the caller's receive.
        limit: bytes that are remembered at most; beyond them nothing is, and the body cannot be repeated.

    Attributes:
        whole: whether everything that was read from the caller can be given out again.
    """

    __slots__ = ("_again", "_ended", "_kept", "_limit", "_receive", "whole")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._kept = bytearray()
        self._ended = False
        self._again = False
        self.whole = True

    def rewind(self) -> None:
        """Begin again, for another attempt."""
        self._again = self.whole and (self._ended or bool(self._kept))

    def forget(self) -> None:
        """Free what is remembered: there will be no other attempt."""
        self.whole = False
        if not self._again:
            self._kept.clear()

    async def __call__(self) -> Message:
        """Return what is remembered, once after each rewind; then the caller's next message."""
        if self._again:
            return self._remembered()
        message = await self._receive()
        if self.whole and message["type"] == "http.request":
            self._remember(message)
        return message

    def _remembered(self) -> Message:
        self._again = False
        body = bytes(self._kept)
        if not self.whole:
            self._kept.clear()
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    def _remember(self, message: Message) -> None:
        body = message.get("body", b"")
        if len(self._kept) + len(body) > self._limit:
            self.forget()
            return
        self._kept += body
        self._ended = not message.get("more_body", False)
