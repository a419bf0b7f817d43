"""The two maintained HTTP/1.1 parsers behind one small interface: ``httptools`` when importable, else ``h11``.

Neither is imported before the first request. Where the end of a response is, and everything that makes responses
ambiguous, is checked in ``response.py`` for both alike; a parser reads the head and undoes the chunked coding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from keypool_asgi.core.messages import Headers
from keypool_asgi.errors import ConfigurationError, ProtocolViolation

__all__ = ["Parser", "ParserFactory", "ParserName", "load_parser"]

ParserName = Literal["httptools", "h11"]


class Parser(Protocol):
    """Parses one response. Errors carry no header value: a response may hold secrets."""

    def head(self, data: bytes) -> tuple[bytes, Headers]:
        """Parse a complete response head into reason phrase and header fields, names as received.

        Raises:
            ProtocolViolation: it is malformed.
        """

    def chunks(self, data: bytes) -> tuple[bytes, bool, bool]:
        """Decode what came of a chunked body: ``(content, whether it is complete, whether more bytes follow it)``.

        Raises:
            ProtocolViolation: it is malformed.
        """


ParserFactory = Callable[[], Parser]


def load_parser(name: ParserName | None) -> ParserFactory:
    """Import a parser: the named one, or the fastest that is installed.

    Raises:
        ConfigurationError: the named one is unknown or not installed.
    """
    if name not in (None, "httptools", "h11"):
        raise ConfigurationError(f"parser: {name!r} is neither 'httptools' nor 'h11'")
    if name != "h11":
        try:
            import httptools
        except ImportError:
            if name is not None:
                raise ConfigurationError("parser: 'httptools' is not installed") from None
        else:
            return lambda: HttptoolsParser(httptools.HttpResponseParser, httptools.HttpParserError)
    import h11

    return lambda: H11Parser(h11)


class _SurplusError(Exception):
    """More than one response has come."""


class _Events:
    """What httptools calls. Apart from the parser, which refers to it: no cycle, so no work for the collector."""

    __slots__ = ("content", "ended", "headers", "reason", "surplus")

    def __init__(self) -> None:
        self.reason = b""
        self.headers: Headers = []
        self.content: list[bytes] = []
        self.ended = False
        self.surplus = False

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))  # OWS is not part of a value (RFC 9112, section 5.1)

    def on_body(self, data: bytes) -> None:
        self.content.append(data)

    def on_message_begin(self) -> None:
        if self.ended:  # a second response: stop, or its body would be taken for more of the first one's
            self.surplus = True
            raise _SurplusError

    def on_message_complete(self) -> None:
        self.ended = True


class HttptoolsParser:
    """llhttp, through httptools."""

    __slots__ = ("_error", "_events", "_parser")

    def __init__(self, factory: Callable[[_Events], _Feedable], error: type[Exception]) -> None:
        self._events = _Events()
        self._parser = factory(self._events)
        self._error = error

    def head(self, data: bytes) -> tuple[bytes, Headers]:
        """Parse a complete response head."""
        self._feed(data)
        events = self._events
        headers, events.headers = events.headers, []  # trailers are also fields for llhttp: they go elsewhere
        events.ended = False
        return events.reason, headers

    def chunks(self, data: bytes) -> tuple[bytes, bool, bool]:
        """Decode a piece of a chunked body."""
        events = self._events
        self._feed(data)
        content, events.content = events.content, []
        return content[0] if len(content) == 1 else b"".join(content), events.ended, events.surplus

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except self._error as exc:
            reason = str(exc)  # one of llhttp's constants
        else:
            return
        if self._events.ended:  # the response was complete, and what follows it is no second one
            self._events.surplus = True
        else:
            raise ProtocolViolation(f"upstream's response is malformed: {reason}", sent=True)


class _Feedable(Protocol):
    def feed_data(self, data: bytes, /) -> None: ...


class H11Parser:
    """h11, which httpx brings with it."""

    __slots__ = ("_connection", "_h11")

    def __init__(self, module: Any) -> None:
        self._h11 = module
        # The limit of a response head is ours (``response.py``), and that of an incomplete chunk header is h11's own.
        self._connection = module.Connection(module.CLIENT)
        self._connection.send(module.Request(method="GET", target="/", headers=[("host", "upstream")]))
        self._connection.send(module.EndOfMessage())

    def head(self, data: bytes) -> tuple[bytes, Headers]:
        """Parse a complete response head."""
        self._connection.receive_data(data)
        event = self._next_event()
        if not isinstance(event, self._h11.Response | self._h11.InformationalResponse):
            raise ProtocolViolation("upstream's response is malformed: incomplete head", sent=True)
        # h11 merges lengths that are repeated or listed. What it has found valid is therefore taken as it was received.
        fields = [line.split(b":", 1) for line in data.split(b"\r\n")[1:-2]]
        return bytes(event.reason), [(name, value.strip(b" \t")) for name, value in fields]

    def chunks(self, data: bytes) -> tuple[bytes, bool, bool]:
        """Decode a piece of a chunked body."""
        self._connection.receive_data(data)
        content: list[bytes] = []
        while isinstance(event := self._next_event(), self._h11.Data):
            content.append(bytes(event.data))
        ended = isinstance(event, self._h11.EndOfMessage)
        return b"".join(content), ended, ended and bool(self._connection.trailing_data[0])

    def _next_event(self) -> object:
        try:
            return self._connection.next_event()
        except self._h11.RemoteProtocolError:
            pass
        # Raised out here, so that h11's error, which quotes the offending line, is not in the traceback (I2).
        raise ProtocolViolation("upstream's response is malformed", sent=True)
