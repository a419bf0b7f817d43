"""Watching one WebSocket session at the border to the server: what was said, and how a refusal is shown.

Stages refuse with the messages of a denial response (ASGI extension ``websocket.http.response``), whoever the caller
is. Here that becomes what the caller can see: an HTTP status; or, for those who see only what comes after the upgrade,
an accepted socket, one ``Error`` message and a close code.
"""

from __future__ import annotations

import json

from keypool_asgi.asgi import Message, Receive, Scope, Send
from keypool_asgi.core.close_codes import refusal_code, shortened
from keypool_asgi.core.tokens import RefusalForm

__all__ = ["SocketWatch"]

# Statuses of refusals that may be over in a moment.
_RETRYABLE = frozenset({429, 502, 503, 504})

_EXTENSION = "websocket.http.response"


class SocketWatch:
    """A ``receive`` and a ``send`` that note what passes, and present refusals.

    Args:
        scope: the session's scope.
        receive: the server's receive.
        send: the server's send.
        form: how the caller can be told of a refusal.
        subprotocol: what is chosen of the subprotocols that the caller offers, if anything: without it browsers fail.

    Attributes:
        status: 101, or the status of a refusal (in whatever form it was shown); None while there is neither.
        close_code: code of the close frame that ended the session, or None.
        complete: whether the session has ended with a close frame, or was refused.
        request_bytes: length of the caller's messages, in bytes; in characters where they are text.
        response_bytes: length of the messages to the caller, likewise.
    """

    __slots__ = (
        "_accepted",
        "_connected",
        "_denial",
        "_denial_body",
        "_form",
        "_gone",
        "_receive",
        "_scope",
        "_send",
        "_subprotocol",
        "close_code",
        "complete",
        "request_bytes",
        "response_bytes",
        "status",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, form: RefusalForm, subprotocol: str | None
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._form = form
        self._subprotocol = subprotocol
        self._connected = False
        self._accepted = False
        self._gone: Message | None = None
        self._denial: Message | None = None
        self._denial_body = b""
        self.status: int | None = None
        self.close_code: int | None = None
        self.complete = False
        self.request_bytes = 0
        self.response_bytes = 0

    async def receive(self) -> Message:
        """Return the server's next message. After the end of the session it is told again; servers would wait."""
        if self._gone is not None:
            return self._gone
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive":
            data = message.get("bytes")
            self.request_bytes += len(message["text"] if data is None else data)
        elif kind == "websocket.connect":
            self._connected = True
        elif kind == "websocket.disconnect":
            self._gone = message
            self.close_code = message.get("code", 1005)
            self.complete = self.close_code != 1006
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the server; a denial in the form that the caller can see.

        Raises:
            OSError: the caller has left; some servers say so.
        """
        kind = message["type"]
        if kind == "websocket.send":
            data = message.get("bytes")
            self.response_bytes += len(message["text"] if data is None else data)
            await self._send(message)
        elif kind == "websocket.accept":
            self.status = 101
            self._accepted = True
            await self._connect()
            await self._send(message)
        elif kind == "websocket.close":
            await self._close(message)
        elif kind == "websocket.http.response.start":
            self._denial = message
            self.status = message["status"]
        elif kind == "websocket.http.response.body":
            try:
                await self._deny(message)
            except OSError:  # the caller has left: there is nobody to tell
                self.complete = False
        else:
            await self._send(message)

    async def _connect(self) -> None:
        if not self._connected:
            await self.receive()

    async def _close(self, message: Message) -> None:
        if self._gone is not None:
            return
        await self._connect()
        self.close_code = message.get("code", 1000)
        self.complete = True
        self._gone = {"type": "websocket.disconnect", "code": self.close_code}
        await self._send(message)

    async def _deny(self, message: Message) -> None:
        self._denial_body += message.get("body", b"")
        if message.get("more_body", False):
            return
        start, self._denial = self._denial, None
        await self._connect()
        if start is None or self._gone is not None:
            return
        if self._form == "in_band" or self._accepted:
            await self._deny_in_band(start)
        elif _EXTENSION in (self._scope.get("extensions") or {}):
            self.complete = True
            self._gone = {"type": "websocket.disconnect", "code": 1006}
            await self._send(start)
            await self._send({"type": message["type"], "body": self._denial_body})
        else:
            await self._close({"type": "websocket.close"})

    async def _deny_in_band(self, start: Message) -> None:
        code = refusal_code(start["status"])
        error = _error_message(code, start, self._denial_body)
        if not self._accepted:
            await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})
        await self._send({"type": "websocket.send", "text": json.dumps(error)})
        await self._close({"type": "websocket.close", "code": code, "reason": shortened(str(error["error"]))})


def _error_message(code: int, start: Message, body: bytes) -> dict[str, object]:
    """The ``Error`` of a refusal, with what the SDKs for streaming and for speech look for in one."""
    error: dict[str, object] = {"type": "Error", "error_code": code, **_told(start["status"], body)}
    error["error_type"] = str(error.get("code", "refused")).lower()
    error["retryable"] = start["status"] in _RETRYABLE
    for name, value in start.get("headers", ()):
        if name == b"retry-after" and value.isdigit():  # else a date, of a middleware between two stages
            error["retry_after_seconds"] = int(value)
    return error


def _told(status: int, body: bytes) -> dict[str, object]:
    """What a denial's body says; one that is not ours (of a middleware between two stages) by its status alone."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    return (
        found if isinstance(found, dict) and "error" in found else {"error": f"The request was refused: HTTP {status}."}
    )
