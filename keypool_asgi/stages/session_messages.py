"""A session's messages, in ASGI's words and in the relay's."""

from __future__ import annotations

from keypool_asgi.asgi import Message, Receive
from keypool_asgi.core.relaying import CallerLeft, FromUpstream, UpstreamEnded
from keypool_asgi.core.sessions import Close

__all__ = ["close_of", "event_of", "is_longer", "left", "to_caller"]


def to_caller(message: str | bytes) -> Message:
    """What the server is to send to the caller."""
    if isinstance(message, str):
        return {"type": "websocket.send", "text": message}
    return {"type": "websocket.send", "bytes": message}


def event_of(message: str | bytes | Close) -> FromUpstream | UpstreamEnded:
    """What has come from upstream."""
    return UpstreamEnded(message) if isinstance(message, Close) else FromUpstream(message)


def close_of(message: Message) -> Close:
    """How the caller has left, by the server's disconnect message."""
    return Close(message.get("code") or 1005, message.get("reason") or "")


async def left(receive: Receive) -> CallerLeft:
    """Wait until the caller leaves. Before it is accepted it can do nothing else."""
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    return CallerLeft(close_of(message))


def is_longer(text: str, limit: int) -> bool:
    """Whether a text has more bytes than this; a character has up to four."""
    return 4 * len(text) > limit and len(text.encode("utf-8", "surrogatepass")) > limit
