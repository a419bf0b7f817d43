"""Any httpx transport as an upstream client."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Final

import httpx

from keypool_asgi.core.messages import RequestHead, ResponseHead
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation, UpstreamError, UpstreamTimeout
from keypool_asgi.upstream.request import BodyMeter, LengthMismatchError, encode_request
from keypool_asgi.upstream.response import frame_response
from keypool_asgi.upstream.settings import Timeouts
from keypool_asgi.upstream.watchdog import Watchdog

from .bodies import Incoming, Outgoing

__all__ = ["HttpxClient"]

_DEFAULT_TIMEOUTS = Timeouts()

_CONNECT_ERRORS: Final = (httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ConnectError, httpx.ProxyError)
# What a transport may raise of a request's failure (a closed one raises RuntimeErrors); anything else is a bug in it,
# and stays visible as one.
_TRANSPORT_ERRORS: Final = (httpx.HTTPError, httpx.StreamError, OSError, RuntimeError)
_CLOSED: Final = re.compile("closed|disconnected")


class HttpxClient:
    """An ``UpstreamClient`` on an httpx transport.

    Its calls differ from native ones where a transport gives no choice: a failure to connect is told by the call
    instead of by ``open``, and whether an early answer is seen before the body is sent is up to the transport
    (httpx's own does not look for it).

    Args:
        transport: what carries the requests; ``aclose`` closes it.
        timeouts: how long each wait may take. ``idle`` is the transport's own affair.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, timeouts: Timeouts = _DEFAULT_TIMEOUTS) -> None:
        self._transport = transport
        self._timeouts = timeouts
        self._calls: set[HttpxCall] = set()
        self._cleaning: set[asyncio.Task[None]] = set()

    async def open(self, head: RequestHead) -> HttpxCall:
        """Start a request. One without a body starts when it is finished.

        Raises:
            ValueError: the head is no well-formed request.
        """
        length = encode_request(head).length  # for its checks, too: transports differ in theirs
        call = HttpxCall(self, head, length)
        self._calls.add(call)
        return call

    async def aclose(self) -> None:
        """Cut every open call and close the transport."""
        for call in list(self._calls):
            call.close()
        while self._cleaning:
            await asyncio.wait(self._cleaning)
        await self._transport.aclose()

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Have the transport carry a request."""
        return await self._transport.handle_async_request(request)

    def request(self, head: RequestHead, body: httpx.AsyncByteStream) -> httpx.Request:
        """Put a head into httpx's form, every byte as it is."""
        timeouts, origin = self._timeouts, head.origin
        read = max(head.patience, timeouts.read)  # a transport does not tell the head from the body: calls measure both
        limits = {"connect": timeouts.connect, "pool": timeouts.connect, "write": timeouts.write, "read": read}
        return httpx.Request(
            head.method.decode("ascii"),
            httpx.URL(scheme=origin.scheme, host=origin.host, port=origin.port, raw_path=head.target),
            headers=head.headers,
            stream=body,
            extensions={"timeout": limits, "target": head.target},
        )

    def forget(self, call: HttpxCall, incoming: Incoming | None, task: asyncio.Task[httpx.Response] | None) -> None:
        """Let a call go, and close behind it what is still open."""
        self._calls.discard(call)
        if incoming is not None or task is not None:
            cleaning = asyncio.ensure_future(_clean_up(incoming, task))
            self._cleaning.add(cleaning)
            cleaning.add_done_callback(self._cleaning.discard)

    @property
    def timeouts(self) -> Timeouts:
        """How long each wait may take."""
        return self._timeouts


async def _clean_up(incoming: Incoming | None, task: asyncio.Task[httpx.Response] | None) -> None:
    with suppress(httpx.HTTPError):
        if task is not None:
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                await task.result().aclose()
        if incoming is not None:
            await incoming.aclose()


class HttpxCall:
    """An ``UpstreamCall`` on an httpx transport. The request runs in one task, until the response's head is there."""

    def __init__(self, client: HttpxClient, head: RequestHead, length: int | None) -> None:
        self._client = client
        self._head = head
        self._meter = BodyMeter(length)
        self._outgoing = Outgoing()
        self._incoming: Incoming | None = None
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[ResponseHead] = self._loop.create_future()
        self._task: asyncio.Task[httpx.Response] | None = None
        self._finished = False
        self._closed = False
        self._failure: BaseException | None = None
        self._overdue = Watchdog(self._loop, self._on_overdue)
        if length != 0:
            self._start()

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits until the transport has taken the piece before.

        Raises:
            UpstreamError: the request failed, or the body is longer than its Content-Length.
        """
        self._check()
        try:
            data = self._meter.pass_on(data)
        except LengthMismatchError as exc:
            raise self._misframed(exc) from None
        if data:
            await self._put(data)

    async def finish(self) -> None:
        """Complete the request.

        Raises:
            UpstreamError: the request failed, or the body is shorter than its Content-Length.
        """
        if self._finished:
            return
        self._check()
        try:
            rest = self._meter.rest()
        except LengthMismatchError as exc:
            raise self._misframed(exc) from None
        if rest:
            await self._put(rest)
        self._finished = True
        self._outgoing.end()
        if not self._answer.done():
            self._overdue.start(self._head.patience)
            if self._task is None:
                self._start()

    async def head(self) -> ResponseHead:
        """Wait for the head of the final response.

        Raises:
            UpstreamError: the request failed, or ``patience`` is over.
        """
        return await asyncio.shield(self._answer)

    async def read(self) -> tuple[bytes, bool]:
        """Return the next piece of the raw body, and whether more follows.

        Raises:
            UpstreamError: the response broke off, or nothing came within the read timeout.
        """
        await self.head()
        self._check()
        if self._incoming is None:
            return b"", False
        seconds = self._client.timeouts.read
        try:
            async with asyncio.timeout(seconds):
                return await self._incoming.read()
        except TimeoutError:
            failure: UpstreamError = UpstreamTimeout(f"upstream sent nothing for {seconds:g} s", sent=True)
        except UpstreamError as exc:
            failure = exc
        except _TRANSPORT_ERRORS as exc:
            failure = _to_ours(exc)
        self._fail(failure)
        raise failure

    def close(self) -> None:
        """End the call; what is left of it is closed in the background."""
        if self._closed:
            return
        self._closed = True
        self._overdue.cancel()
        incoming, task = self._incoming, self._task
        self._fail(ConnectionBroken("the call was closed", sent=task is not None or incoming is not None))
        self._client.forget(self, None if incoming is None or incoming.ended else incoming, task)

    # Inside

    def _start(self) -> None:
        request = self._client.request(self._head, self._outgoing)
        self._task = self._loop.create_task(self._client.send(request))
        self._task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[httpx.Response]) -> None:
        """Take what the transport made of the request: the response's head, or why there is none."""
        if task.cancelled() or self._closed:
            return
        self._overdue.stop()
        exc = task.exception()
        if exc is not None:
            self._fail(_to_ours(exc) if isinstance(exc, _TRANSPORT_ERRORS) else exc)
            return
        response = task.result()
        headers, status = response.headers.raw, response.status_code
        try:
            self._incoming = Incoming(response, frame_response(self._head.method, b"1", status, headers))
        except (ProtocolViolation, TypeError) as problem:
            self._fail(problem)  # close() sees to the response, through the task
            return
        self._task = None
        if not self._answer.done():
            self._answer.set_result(ResponseHead(status, response.extensions.get("reason_phrase", b""), headers))

    def _fail(self, failure: BaseException) -> None:
        """End the exchange. A request that is still running must fail, not complete. The first error counts."""
        if self._failure is None:
            self._failure = failure
        if not self._answer.done():
            self._answer.set_exception(self._failure)
            self._answer.exception()  # seen, even if nobody asks for the head
        self._outgoing.abandon()
        if self._task is not None:
            self._task.cancel()

    def _misframed(self, mismatch: LengthMismatchError) -> ConnectionBroken:
        error = ConnectionBroken(str(mismatch), sent=self._task is not None)
        self._fail(error)
        return error

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _put(self, data: bytes) -> None:
        seconds = self._client.timeouts.write
        try:
            async with asyncio.timeout(seconds):
                await self._outgoing.put(data)
        except TimeoutError:
            failure = UpstreamTimeout(f"upstream took nothing of the request for {seconds:g} s", sent=True)
            if not self._answer.done():  # else its answer can still be read
                self._fail(failure)
            raise failure from None
        self._check()

    def _on_overdue(self) -> None:
        self._fail(UpstreamTimeout(f"upstream did not answer within {self._head.patience:g} s", sent=True))


def _to_ours(exc: BaseException) -> UpstreamError:
    """Translate an error of a transport. Its text may quote the wire, so only that of failed connects is kept (I2)."""
    name = type(exc).__name__
    if isinstance(exc, _CONNECT_ERRORS):
        return ConnectFailed(f"no connection to upstream: {name}: {exc}")
    if isinstance(exc, httpx.TimeoutException):
        return UpstreamTimeout(f"upstream was too slow: {name}", sent=True)
    # httpcore reports a connection that was closed too early as a protocol error.
    if isinstance(exc, httpx.RemoteProtocolError) and not _CLOSED.search(str(exc)):
        return ProtocolViolation(f"upstream's response is malformed: {name}", sent=True)
    return ConnectionBroken(f"the connection to upstream broke: {name}", sent=True)
