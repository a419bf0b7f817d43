"""The ASGI border: types that any framework's callables fit, reading a scope safely, and refusing.

The aliases are looser than asgiref's TypedDicts on purpose: those are not assignable from the frameworks' own aliases.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from .errors import Refusal, render

__all__ = [
    "ASGIApp",
    "Location",
    "Message",
    "OwnBase",
    "Receive",
    "Scope",
    "Send",
    "discard_body",
    "is_literal",
    "locate",
    "own_base",
    "send_refusal",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# Long enough for a body that is on its way already, short enough not to be a free parking place.
_DISCARD_SECONDS = 1.0

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?\Z")


class Location(NamedTuple):
    """Where a request stands relative to the pool.

    Attributes:
        mount: path at which the caller sees the pool, without a trailing slash.
        path: decoded path below it.
    """

    mount: str
    path: str


def locate(scope: Scope, prefix: str, *, mounted: bool) -> Location | None:
    """Find the path below the pool, or None when the request is not the pool's.

    ``path`` includes ``root_path`` (ASGI specification, HTTP connection scope), but behind a proxy that strips it some
    servers leave it out; then the path is taken as it is. Matching is by segment.

    Args:
        scope: an ``http`` or ``websocket`` scope.
        prefix: the pool's path in the host app, without a trailing slash.
        mounted: whether a framework's mount may have changed the scope: Starlette's puts the mount's path into
            ``root_path``, Litestar's strips it from ``path`` and leaves only ``raw_path`` whole.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    inner = path
    if root:
        root = root.rstrip("/")
        inner = _without(root, path)
    rest = _below(prefix, inner)
    if rest is not None:
        # A mount has put its path into root_path, but a proxy has stripped what stands before it from the path.
        known = mounted and inner == path and root.endswith(prefix)
        return Location(root if known else root + prefix, rest)
    if not mounted:
        return None
    rest = _below(prefix, _without(root, scope.get("raw_path", b"").decode("latin-1")))
    if rest is not None:
        return Location(root + prefix, rest)
    return Location(root, inner) if root and inner != path else None


def _without(root: str, path: str) -> str:
    rest = _below(root, path) if root else None
    return path if rest is None else rest


def _below(prefix: str, path: str) -> str | None:
    """What stands behind a prefix, by segment; None when the path does not begin with it."""
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    return rest if not rest or rest[0] == "/" else None


def is_literal(scope: Scope, path: str) -> bool:
    """Whether ``path``, the end of the decoded path, also stands undisguised at the end of the raw one.

    No operation's path needs percent-encoding, so an encoded slash, dot or letter in it is a trick.
    """
    raw = scope.get("raw_path")
    return raw is None or (path.isascii() and raw.partition(b"?")[0].endswith(path.encode("ascii")))


def own_base(scope: Scope, mount: str) -> str:
    """Return the pool's absolute URL as the caller of this request sees it, for links in answers.

    The ``Host`` field is the caller's word; it only ever comes back to that same caller, and only if it is well-formed.
    """
    scheme = scope.get("scheme", "http")  # optional, for websocket too (ASGI specification, connection scopes)
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    if not _AUTHORITY.match(host):
        name, port = scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else name
    return f"{scheme}://{host}{mount}"


class OwnBase:
    """The pool's absolute URL as a caller sees it, told when it is asked for: few answers have links.

    Its repr says nothing: a scope holds the caller's token (invariant I2).
    """

    __slots__ = ("_mount", "_public", "_scope")

    def __init__(self, scope: Scope, mount: str, public: str | None) -> None:
        self._scope = scope
        self._mount = mount
        self._public = public

    def __call__(self) -> str:
        """Return it, without a trailing slash."""
        return self._public or own_base(self._scope, self._mount)


async def send_refusal(scope: Scope, send: Send, refusal: Refusal, request_id: str) -> None:
    """Answer an ``http`` or ``websocket`` scope with a refusal.

    A WebSocket's as a denial response; ``SocketWatch``, at the border, shows it in the form that the caller can see.
    """
    status, headers, body = render(refusal, request_id)
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


async def discard_body(receive: Receive, limit: int) -> None:
    """Read and forget the rest of a request body: ``limit`` bytes at most, and only for a moment."""
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            await _discard(receive, limit)
    except TimeoutError:
        return


async def _discard(receive: Receive, limit: int) -> None:
    while limit > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        limit -= len(message.get("body") or b"")
