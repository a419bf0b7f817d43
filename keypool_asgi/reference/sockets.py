"""WebSocket operations in the document: OpenAPI has no words for them, so an extension and a readable description."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from keypool_asgi.core.close_codes import DRAINING, IDLE, TOO_LONG, refusal_code

from .pages import Frame, Page, Socket

__all__ = ["described", "extension", "shared_description"]

_HOW = (
    "This is a WebSocket: open it with `new WebSocket(url)` or any other client, not with a plain GET. The token goes "
    "into `Authorization`, as everywhere. A browser cannot set that header and offers the token as a subprotocol "
    'instead, `new WebSocket(url, ["keypool", "keypool-token.<token>"])`; the pool selects `keypool`. A temporary '
    "token may also come as `?token=`.\n\n"
    "Browsers, official SDKs and callers with a token in the URL are refused by an `Error` message and a close with "
    "its code, for they would not see more; all others by an HTTP status in place of the upgrade."
)

_OWN_CLOSES = {
    refusal_code(403): "The team token is not good, or the team may not do this.",
    refusal_code(429): "Over a limit of the team's.",
    refusal_code(503): "No key can serve now, or the service could not be reached: try again later.",
    **{close.code: close.reason for close in (DRAINING, IDLE, TOO_LONG)},
}


def shared_description() -> str:
    """Return what goes for all of them, as Markdown."""
    return f"{_HOW}\n\n**The pool's own close codes**\n\n{_table(_OWN_CLOSES)}"


def described(page: Page) -> str:
    """Return a page's description with its messages and close codes, as Markdown."""
    socket = page.socket
    if socket is None:
        return page.description
    parts = [
        page.description,
        "**Messages to the service**",
        _list(socket.sends),
        "**Messages from the service**",
        _list(socket.receives),
        "**Close codes**",
        _table(socket.closes),
    ]
    return "\n\n".join(parts)


def extension(socket: Socket) -> dict[str, Any]:
    """Return the ``x-websocket`` of an operation."""
    return {
        "subprotocols": ["keypool", "keypool-token.<token>"],
        "sends": [_frame(frame) for frame in socket.sends],
        "receives": [_frame(frame) for frame in socket.receives],
        "closes": {str(code): meaning for code, meaning in sorted(socket.closes.items())},
    }


def _table(closes: Mapping[int, str]) -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in sorted(closes.items())]
    return "\n".join(["| code | meaning |", "| --- | --- |", *rows])


def _list(frames: Iterable[Frame]) -> str:
    return "\n".join(f"- **{frame.name}**: {frame.description}{_shown(frame)}" for frame in frames)


def _shown(frame: Frame) -> str:
    return f"  \n  `{json.dumps(frame.example)}`" if frame.example else ""


def _frame(frame: Frame) -> dict[str, Any]:
    value: dict[str, Any] = {"name": frame.name, "description": frame.description}
    return value | ({"example": dict(frame.example)} if frame.example else {})
