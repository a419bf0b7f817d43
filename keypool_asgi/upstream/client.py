"""The native client: HTTP/1.1 over asyncio, without httpx on the way."""

from __future__ import annotations

import ssl

from keypool_asgi.core.messages import RequestHead
from keypool_asgi.errors import ConfigurationError

from .call import NativeCall
from .connections import Connections
from .parsers import ParserFactory, ParserName, load_parser
from .request import encode_request
from .response import ResponseReader
from .settings import MAX_HEAD_BYTES, Timeouts

__all__ = ["NativeClient"]

_DEFAULT_TIMEOUTS = Timeouts()


class NativeClient:
    """An ``UpstreamClient`` with connections by origin that are used again.

    It belongs to the event loop that it runs on; on another loop it starts without connections. After ``aclose`` it
    may be used again. Proxies of the environment are not used.

    Args:
        timeouts: how long each wait may take.
        max_connections: connections per origin at most; further calls wait for their turn. None for no limit.
        ssl_context: how upstream's certificate is checked; None trusts what the system trusts.
        max_head_bytes: bytes that a response head may have.
        parser: ``"httptools"`` or ``"h11"``; None takes httptools if it is installed.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        max_connections: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_head_bytes: int = MAX_HEAD_BYTES,
        parser: ParserName | None = None,
    ) -> None:
        if max_connections is not None and max_connections < 1:
            raise ConfigurationError(f"max_connections: {max_connections!r} is not a positive number")
        if max_head_bytes < 1:
            raise ConfigurationError(f"max_head_bytes: {max_head_bytes!r} is not a positive number")
        self._timeouts = timeouts
        self._max_head = max_head_bytes
        self._parser_name = parser
        self._new_parser: ParserFactory | None = None
        self._connections = Connections(timeouts=timeouts, max_connections=max_connections, ssl_context=ssl_context)

    async def open(self, head: RequestHead) -> NativeCall:
        """Have a connection ready and the request's head on its way.

        Raises:
            ConnectFailed: no connection could be made; nothing of the request left.
            ValueError: the head is no well-formed request.
        """
        request = encode_request(head)
        if self._new_parser is None:
            self._new_parser = load_parser(self._parser_name)
        origin = head.origin
        key = (origin.scheme, origin.host, origin.port)
        connections = self._connections
        conn = connections.take_idle(key)
        if conn is None:
            conn = await connections.acquire_new(key, reuse=True)
        reader = ResponseReader(head.method, self._new_parser, self._max_head)
        return NativeCall(connections, conn, head, request, reader=reader, timeouts=self._timeouts)

    async def aclose(self) -> None:
        """Close every idle connection and cut every open call."""
        await self._connections.aclose()
