"""The native client as an httpx transport."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import httpx

from keypool_asgi.core.messages import Origin, RequestHead
from keypool_asgi.errors import ConnectFailed, ConnectionBroken, ProtocolViolation, UpstreamError, UpstreamTimeout
from keypool_asgi.upstream.call import NativeCall
from keypool_asgi.upstream.client import NativeClient

__all__ = ["KeyPoolTransport"]

_TO_HTTPX: Final[tuple[tuple[type[UpstreamError], type[httpx.TransportError]], ...]] = (
    (ConnectFailed, httpx.ConnectError),
    (UpstreamTimeout, httpx.ReadTimeout),
    (ProtocolViolation, httpx.RemoteProtocolError),
    (ConnectionBroken, httpx.ReadError),
)


class KeyPoolTransport(httpx.AsyncBaseTransport):
    """The native client as an httpx transport, for ``httpx.AsyncClient(transport=...)``.

    A request's own ``connect``, ``write`` and ``pool`` timeouts are not used: the client has its own. Its ``read``
    timeout is how long the response's head may take.

    Args:
        client: the client to use; ``aclose`` closes it. None makes one with the default settings.
    """

    def __init__(self, client: NativeClient | None = None) -> None:
        self._client = client if client is not None else NativeClient()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response with its body still to be read."""
        try:
            call = await self._client.open(_head_of(request))
        except UpstreamError as exc:
            raise _to_httpx(exc, request) from exc
        try:
            await _send_body(call, request)
            head = await call.head()
        except UpstreamError as exc:
            call.close()
            raise _to_httpx(exc, request) from exc
        except BaseException:
            call.close()
            raise
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": head.reason}
        stream = _NativeStream(call, request)
        return httpx.Response(head.status, headers=head.headers, stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


class _NativeStream(httpx.AsyncByteStream):
    """The body of a native call."""

    def __init__(self, call: NativeCall, request: httpx.Request) -> None:
        self._call = call
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            try:
                data, more = await self._call.read()
            except UpstreamError as exc:
                raise _to_httpx(exc, self._request) from exc
            if data:
                yield data

    async def aclose(self) -> None:
        self._call.close()


def _head_of(request: httpx.Request) -> RequestHead:
    url = request.url
    origin = Origin(url.scheme, url.host, url.port or {"http": 80, "https": 443}[url.scheme])
    target = request.extensions.get("target", url.raw_path)
    patience = request.extensions.get("timeout", {}).get("read")
    patience = math.inf if patience is None else patience
    return RequestHead(request.method.encode("ascii"), origin, target, request.headers.raw, patience)


async def _send_body(call: NativeCall, request: httpx.Request) -> None:
    if not isinstance(request.stream, httpx.AsyncByteStream):
        raise TypeError("an asynchronous transport needs an asynchronous request body")
    with suppress(ConnectionBroken):  # perhaps after an early answer: head() delivers it, or raises this again
        async for data in request.stream:
            await call.write(data)
        await call.finish()


def _to_httpx(exc: UpstreamError, request: httpx.Request) -> httpx.TransportError:
    kind = next((to for ours, to in _TO_HTTPX if isinstance(exc, ours)), httpx.NetworkError)
    return kind(str(exc), request=request)
