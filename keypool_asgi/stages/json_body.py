"""Reading a small JSON body whole, so that it can be checked before it is forwarded unchanged."""

from __future__ import annotations

from keypool_asgi.asgi import Message, Receive
from keypool_asgi.errors import BodyTooLarge

__all__ = ["read_whole", "replayed"]


async def read_whole(receive: Receive, limit: int) -> bytes | None:
    """Return the request body, or None when the caller left before it was complete.

    Args:
        receive: the caller's receive.
        limit: longest body, in bytes.

    Raises:
        BodyTooLarge: it is longer.
    """
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise BodyTooLarge(f"The JSON body is larger than the {limit} bytes that are allowed for this operation.")
    return b"".join(pieces)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives the body as one message, and then whatever the caller's gives."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again
