"""Forwarder: stream one attempt to upstream and its answer back, with back-pressure both ways.

One task reads the caller: its body, and its disconnect. The exchange's own task reads upstream. Whichever ends first
ends the other; an upload that breaks off never becomes a complete one, and an answer that breaks off is broken off
(invariant I7). For a request without a body the reading task is made only when its answer does not come at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.core.headers import downstream_fields
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.messages import RequestHead, ResponseHead
from keypool_asgi.core.provider import Provider
from keypool_asgi.core.requests import upstream_request
from keypool_asgi.errors import BadRequest, BodyTooLarge, UpstreamError, UpstreamFailed
from keypool_asgi.exchange import Exchange
from keypool_asgi.ports import UpstreamCall, UpstreamClient

from .leaving import Leaving, Lookout
from .stage import AnswerBroken, Stage

__all__ = ["Forwarder"]

logger = logging.getLogger("keypool_asgi")


# An exchange that takes longer than this to get here has waited for something.
_WAITED_SECONDS = 0.005


class _CallerGone(Exception):
    """The caller has disconnected."""


class Forwarder(Stage):
    """Sends the attempt's request upstream and the answer to the caller. The last stage for HTTP.

    Args:
        app: what serves WebSocket sessions.
        client: connections to upstream.
        provider: where services are.
        via: how we announce ourselves to upstream in ``Via``, None for not at all. Nothing about the caller is
            announced: no ``Forwarded``, no ``X-Forwarded-*``.
        max_body_bytes: longest request body that is passed on, in bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        client: UpstreamClient,
        provider: Provider,
        via: str | None = "keypool-asgi",
        max_body_bytes: int = 5 * 1024**3,
    ) -> None:
        super().__init__(app)
        self.client = client
        self.provider = provider
        self.via = via.encode("ascii") if via else None
        self.max_body_bytes = max_body_bytes
        self._lookout = Lookout()

    async def act(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward, unless this is a WebSocket session."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        attempt, framed = exchange.attempt, exchange.framing
        passage = _Passage(self, self._request(exchange, scope, attempt.key), send)
        try:
            if framed.chunked or framed.length:
                await passage.run(receive)
            else:
                await passage.run_without_body(self._lookout.watch(receive), exchange.began)
        except UpstreamError as error:
            attempt.failure = error
            logger.warning("request %s: upstream failed: %s", exchange.request_id, error)
            if not passage.started:
                raise UpstreamFailed.because(error) from error
        if attempt.failure is not None:
            # Outside of the except clause: the error's traceback knows the key.
            raise AnswerBroken("upstream broke off its answer")

    def _request(self, exchange: Exchange, scope: Scope, key: UpstreamKey) -> RequestHead:
        return upstream_request(
            scope["method"],
            exchange.path,
            scope["query_string"],
            scope["headers"],
            operation=exchange.operation,
            framing=exchange.framing,
            origin=self.provider.origins[key.region][exchange.operation.service],
            key=key,
            token=exchange.token.reveal(),
            via=self.via,
        )


class _Passage:
    """One attempt's way through the forwarder."""

    __slots__ = ("forwarder", "request", "send", "started", "writing")

    def __init__(self, forwarder: Forwarder, request: RequestHead, send: Send) -> None:
        self.forwarder = forwarder
        self.request = request
        self.send = send
        self.started = False
        self.writing = True

    async def run(self, receive: Receive) -> None:
        """Forward until the answer has been sent, or the caller is gone.

        Raises:
            UpstreamError: upstream failed.
            BadRequest: the request cannot be written as HTTP.
            BodyTooLarge: the body grew over the limit before an answer had begun.
        """
        opened: asyncio.Future[UpstreamCall] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read_caller(receive, opened))
                await self._answer(opened, partial(_stopped, reading))
        except* (_CallerGone, OSError):
            # Upstream's errors are UpstreamErrors: an OSError is the server's way to say that the caller has left.
            pass
        except* (UpstreamError, BadRequest, BodyTooLarge) as several:
            failure = several.exceptions[0]
            if not (self.started and isinstance(failure, BodyTooLarge)):
                raise failure from None

    async def run_without_body(self, leaving: Leaving, began: float) -> None:
        """Forward, as above, a request that has been complete since it ``began``.

        Raises:
            UpstreamError: upstream failed.
            BadRequest: the request cannot be written as HTTP.
        """
        try:
            if time.monotonic() - began > _WAITED_SECONDS:
                await leaving.look()  # it has waited for a key, perhaps for longer than its caller
            await self._answer(None, leaving.stop)
        except OSError:
            pass  # the caller has left, as above
        except asyncio.CancelledError:
            if not leaving.caused():
                raise
        finally:
            await leaving.stop()

    async def _read_caller(self, receive: Receive, opened: asyncio.Future[UpstreamCall]) -> None:
        """Pass the body on, then wait for the caller to leave."""
        call = await opened
        total, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _CallerGone
            data, more = message.get("body", b""), message.get("more_body", False)
            total += len(data)
            if total > self.forwarder.max_body_bytes:
                raise BodyTooLarge(
                    f"The request body is larger than the {self.forwarder.max_body_bytes} bytes that are allowed."
                )
            if data:
                await self._write(call, data)
        await self._finish(call)
        while (await receive())["type"] != "http.disconnect":
            pass
        raise _CallerGone

    async def _write(self, call: UpstreamCall, data: bytes) -> None:
        if not self.writing:
            return
        try:
            await call.write(data)
        except UpstreamError:
            # Upstream does not want the rest. Why, the answer or its absence says.
            self.writing = False

    async def _finish(self, call: UpstreamCall) -> None:
        if not self.writing:
            return
        try:
            await call.finish()
        except UpstreamError:
            self.writing = False  # as above

    async def _answer(
        self, opened: asyncio.Future[UpstreamCall] | None, stop_reading: Callable[[], Awaitable[None]]
    ) -> None:
        """Open the call (for who writes a body, if there is one), and stream the answer back."""
        try:
            call = await self.forwarder.client.open(self.request)
        except ValueError:
            raise BadRequest("The request's query or header fields have characters that HTTP does not allow.") from None
        try:
            if opened is None:
                await self._finish(call)
            else:
                opened.set_result(call)
            head = await call.head()
            if head.status >= 400:
                self.writing = False
            await self._stream(call, head, stop_reading)
        finally:
            call.close()

    async def _stream(
        self, call: UpstreamCall, head: ResponseHead, stop_reading: Callable[[], Awaitable[None]]
    ) -> None:
        fields = downstream_fields(head.status, head.headers)
        self.started = True
        await self.send({"type": "http.response.start", "status": head.status, "headers": fields})
        more = True
        while more:
            data, more = await call.read()
            if not more:
                await stop_reading()  # two readers at once would take messages from each other
            await self.send({"type": "http.response.body", "body": data, "more_body": more})


async def _stopped(reading: asyncio.Task[None]) -> None:
    """Stop reading the caller."""
    if not reading.done():
        reading.cancel()
        await asyncio.wait([reading])
