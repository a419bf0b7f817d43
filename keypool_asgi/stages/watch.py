"""Watching one exchange at the border to the server: what came, what went, and a body that nobody wants.

A caller that is answered while it is still sending may never see the answer: some servers cut the connection then. So
the last message of an early answer waits until the rest of the body has been read and thrown away, within bounds.
"""

from __future__ import annotations

from collections.abc import Awaitable

from keypool_asgi.asgi import Message, Receive, Scope, Send, discard_body

__all__ = ["Watch"]

_ANNOUNCE_BODY = frozenset({b"content-length", b"transfer-encoding"})


class Watch:
    """A ``receive`` and a ``send`` that note what passes.

    Args:
        scope: the exchange's scope.
        receive: the server's receive.
        send: the server's send.
        discard_bytes: bytes of unwanted request body to read at most.

    Attributes:
        status: status of the answer, or None while there is none.
        complete: whether the answer has ended as it should.
        request_bytes: request body so far, in bytes.
        response_bytes: response body so far, in bytes.
    """

    __slots__ = (
        "_discard_bytes",
        "_last",
        "_reading",
        "_receive",
        "_scope",
        "_send",
        "complete",
        "request_bytes",
        "response_bytes",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, discard_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._discard_bytes = discard_bytes
        self._last: Message | None = None
        self._reading = False
        self.status: int | None = None
        self.complete = False
        self.request_bytes = 0
        self.response_bytes = 0

    async def receive(self) -> Message:
        """Return the server's next message. A disconnect is told again and again; Hypercorn would tell it once."""
        if self._last is not None and self._last["type"] == "http.disconnect":
            return self._last
        self._reading = True
        message = await self._receive()
        if message["type"] == "http.request":
            self.request_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._last = message
        elif message["type"] == "http.disconnect":
            self._last = message
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message to the server; the last one only after the request body has ended, or enough of it.

        Not a coroutine itself, for it stands in the way of every message.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status == 304:
                message = _without_length(message)
        elif message["type"] == "http.response.body":
            self.response_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                return self._end(message)
        return self._send(message)

    async def _end(self, message: Message) -> None:
        if self._last is None and self._discard_bytes and self._is_sending():
            await self._send({**message, "more_body": True})
            await discard_body(self.receive, self._discard_bytes)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
        self.complete = True

    def _is_sending(self) -> bool:
        """Whether the caller is sending a body. Before we read, one that expects a 100 is not (RFC 9110, 10.1.1)."""
        is_announced = waits = False
        for name, _ in self._scope["headers"]:
            if name in _ANNOUNCE_BODY:
                is_announced = True
            elif name == b"expect":
                waits = not self._reading
        return is_announced and not waits


def _without_length(start: Message) -> Message:
    """The head of a 304 without the length, which tells of what a 200 would bring.

    uvicorn (httptools) would demand a body of that length.
    """
    return {**start, "headers": [field for field in start["headers"] if field[0] != b"content-length"]}
