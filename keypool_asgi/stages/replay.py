"""The bounded peek: a request body that can be sent again as long as it was short."""

from __future__ import annotations

from keypool_asgi.asgi import Message, Receive

__all__ = ["ReplayableBody"]


class ReplayableBody:
    """A ``receive`` that remembers what it gave out, up to a number of bytes, and can begin again.

    Args:
        receive: the caller's receive.
        limit: bytes that are remembered at most; beyond them nothing is, and the body cannot be repeated.
    """

    __slots__ = ("_given", "_kept", "_limit", "_receive", "_size", "_whole")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._kept: list[Message] = []
        self._size = 0
        self._given = 0
        self._whole = True

    @property
    def whole(self) -> bool:
        """Whether everything that was read from the caller can be given out again."""
        return self._whole

    def rewind(self) -> None:
        """Begin again, for another attempt."""
        self._given = 0

    def forget(self) -> None:
        """Free what is remembered: there will be no other attempt."""
        self._whole = False
        del self._kept[: self._given]
        self._given = 0

    async def __call__(self) -> Message:
        """Return the next message: a remembered one first, then the caller's."""
        if self._given < len(self._kept):
            return self._remembered()
        message = await self._receive()
        if self._whole:
            self._remember(message)
        return message

    def _remembered(self) -> Message:
        message = self._kept[self._given]
        if self._whole:
            self._given += 1
        else:
            del self._kept[self._given]
        return message

    def _remember(self, message: Message) -> None:
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            self.forget()
            return
        self._kept.append(message)
        self._given += 1
