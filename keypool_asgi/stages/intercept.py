"""Intercept: take the pool's requests out of the host app's, and find the operation that each asks for."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from os import urandom
from typing import Literal, Protocol

from keypool_asgi.asgi import ASGIApp, Location, OwnBase, Receive, Scope, Send, is_literal, locate, send_refusal
from keypool_asgi.core.headers import NO_BODY, framing_of
from keypool_asgi.core.operations import SOCKET, OperationTable
from keypool_asgi.core.tokens import chosen_subprotocol, refusal_form
from keypool_asgi.errors import BodyTooLarge, ConnectionBroken, Gone, NotFound, Refusal, UpstreamFailed
from keypool_asgi.exchange import SCOPE_KEY, Exchange

from .socket_watch import SocketWatch
from .stage import AnswerBroken
from .watch import Watch

__all__ = ["Beside", "ExchangeRecord", "Intercept", "OnExchange", "SocketRefusals"]

logger = logging.getLogger("keypool_asgi")

SocketRefusals = Literal["auto", "http", "in_band"]
"""How a refused WebSocket upgrade is shown: ``"http"`` with a status, which a browser cannot see; ``"in_band"`` by an
accepted socket, an ``Error`` message and a close code; ``"auto"`` in the form that the caller can show."""

_REQUESTS = frozenset({"http", "websocket"})


@dataclass(frozen=True, slots=True)
class ExchangeRecord:
    """What an exchange was, once it has ended.

    Attributes:
        request_id: the id that a refusal carries in its body.
        operation: name in the operations table.
        team: id of the team, or None when nobody was authenticated.
        keys: ids of the keys that were tried, in order; the last one served.
        status: HTTP status that the caller got (101 for a WebSocket session), or None when none was sent.
        close_code: close code of a WebSocket session, whichever side sent it; None for a request.
        refused: code of our own refusal, or None when the answer was upstream's.
        complete: whether the answer reached its end.
        started: Unix time in seconds.
        seconds: how long the exchange took.
        request_bytes: bytes of request body, or of messages, that came from the caller.
        response_bytes: bytes of response body, or of messages, that went to the caller.
    """

    request_id: str
    operation: str
    team: str | None
    keys: tuple[str, ...]
    status: int | None
    close_code: int | None
    refused: str | None
    complete: bool
    started: float
    seconds: float
    request_bytes: int
    response_bytes: int


OnExchange = Callable[[ExchangeRecord], Awaitable[None] | None]
"""Called after each exchange, sync (and then quick) or async. It cannot change the answer any more."""


class Beside(Protocol):
    """What is served below the pool's prefix beside the operations, without a token: the API reference."""

    def knows(self, path: str) -> bool:
        """Whether a path below the prefix is its own."""

    async def answer(self, location: Location, scope: Scope, send: Send) -> None:
        """Answer an ``http`` request for such a path."""


class Intercept:
    """Answers the pool's requests and hands every other one to the host app untouched (invariant I1).

    Args:
        app: what serves the pool's requests: the next stage.
        host: the host app; None answers 404 outside the prefix.
        table: the operations table.
        prefix: the pool's path, without a trailing slash.
        public_url: the pool's absolute URL for links in answers, when it cannot be told from requests (behind a proxy
            that rewrites ``Host``). Without a trailing slash.
        max_body_bytes: longest request body that is taken, in bytes.
        discard_bytes: of a body that nobody wants, how many bytes are read before a refusal, so that callers who are
            still sending get to read it.
        socket_refusals: how WebSocket upgrades are refused, see ``SocketRefusals``.
        beside: what answers paths that are no operation's, or None.
        on_exchange: called with an ``ExchangeRecord`` after each exchange.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        table: OperationTable,
        host: ASGIApp | None = None,
        prefix: str = "/v1/assemblyai",
        public_url: str | None = None,
        max_body_bytes: int = 5 * 1024**3,
        discard_bytes: int = 1024**2,
        socket_refusals: SocketRefusals = "auto",
        beside: Beside | None = None,
        on_exchange: OnExchange | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.host = host
        self.table = table
        self.prefix = prefix
        self._inside = prefix + "/"
        self.public_url = public_url.rstrip("/") if public_url else None
        self.max_body_bytes = max_body_bytes
        self.discard_bytes = discard_bytes
        self.socket_refusals = socket_refusals
        self.beside = beside
        self.on_exchange = on_exchange
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the pool, or pass on one that is not."""
        await self.way(scope)(scope, receive, send)

    def way(self, scope: Scope) -> ASGIApp:
        """Return what serves a scope: the host app, or ourselves.

        Not a coroutine, so that what wraps us can pass on to the host app at once.
        """
        host = self.host
        if host is not None and (scope["type"] not in _REQUESTS or self._inside not in scope["path"] + "/"):
            return host
        location = locate(scope, self.prefix, mounted=host is None)
        if location is not None:
            return partial(self._serve, location)
        return host or self._refuse_foreign

    async def _refuse_foreign(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = NotFound("There is nothing here: the pool answers below its own prefix only.")
        await send_refusal(scope, self._watch(scope, receive, send).send, refusal, _new_id())

    async def _serve(self, location: Location, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _new_id()
        if scope["type"] == "websocket":
            scope = {**scope, **_optional(scope)}
        watch = self._watch(scope, receive, send)
        try:
            exchange = self._exchange(request_id, location, scope)
        except Refusal as refusal:
            if self.beside is not None and scope["type"] == "http" and self.beside.knows(location.path):
                await self.beside.answer(location, scope, watch.send)
            else:
                await send_refusal(scope, watch.send, refusal, request_id)
            return
        if isinstance(watch, SocketWatch):
            exchange.passed = watch
        started = self.clock()
        try:
            await self.app({**scope, SCOPE_KEY: exchange}, watch.receive, watch.send)
        except AnswerBroken:
            # To return without the end of the answer makes every server cut the connection, without a traceback.
            if watch.status is None:
                await self._refuse_broken(exchange, scope, watch)
        finally:
            if self.on_exchange is not None or logger.isEnabledFor(logging.DEBUG):
                await self._report(_record(exchange, watch, started, time.monotonic() - exchange.began))

    def _watch(self, scope: Scope, receive: Receive, send: Send) -> Watch | SocketWatch:
        if scope["type"] != "websocket":
            return Watch(scope, receive, send, self.discard_bytes)
        given, form = _optional(scope), self.socket_refusals
        offered = given["subprotocols"]
        if form == "auto":
            form = refusal_form(scope["headers"], offered, given["query_string"])
        return SocketWatch(scope, receive, send, form=form, subprotocol=chosen_subprotocol(offered))

    async def _report(self, record: ExchangeRecord) -> None:
        logger.debug("%s", record)
        if self.on_exchange is not None:
            await _tell(self.on_exchange, record)

    async def _refuse_broken(self, exchange: Exchange, scope: Scope, watch: Watch | SocketWatch) -> None:
        """Answer instead of upstream, whose answer broke off while a stage was still holding it."""
        failure = exchange.attempt.failure or ConnectionBroken("upstream broke off its answer", sent=True)
        refusal = UpstreamFailed.because(failure)
        exchange.refused = refusal.code
        await send_refusal(scope, watch.send, refusal, exchange.request_id)

    def _exchange(self, request_id: str, location: Location, scope: Scope) -> Exchange:
        """Find the operation and the body's framing.

        Raises:
            Refusal: unknown, retired, contradictory or too large.
        """
        is_socket = scope["type"] == "websocket"
        method = SOCKET if is_socket else scope["method"]
        match = self.table.find(method, location.path, scope["headers"], scope["query_string"])
        if match is None or not is_literal(scope, location.path):
            raise NotFound("Unknown operation: this method and path are not part of the AssemblyAI API that is served.")
        if match.operation.gone:
            raise Gone(match.operation.gone)
        framing = NO_BODY if is_socket else framing_of(method, scope.get("http_version", "1.1"), scope["headers"])
        if framing.length is not None and framing.length > self.max_body_bytes:
            raise BodyTooLarge(f"The request body is larger than the {self.max_body_bytes} bytes that are allowed.")
        base = OwnBase(scope, location.mount, self.public_url)
        return Exchange(request_id, match.operation, match.path, match.ids, framing, base)


def _new_id() -> str:
    return urandom(8).hex()


def _optional(scope: Scope) -> Scope:
    """What a server may leave out of a WebSocket's scope (ASGI specification, WebSocket connection scope)."""
    return {"query_string": scope.get("query_string") or b"", "subprotocols": scope.get("subprotocols") or []}


def _record(exchange: Exchange, watch: Watch | SocketWatch, started: float, seconds: float) -> ExchangeRecord:
    return ExchangeRecord(
        request_id=exchange.request_id,
        operation=exchange.operation.name,
        team=exchange.known_team,
        keys=tuple([attempt.key.id for attempt in exchange.attempts]),
        status=watch.status,
        close_code=watch.close_code if isinstance(watch, SocketWatch) else None,
        refused=exchange.refused,
        complete=watch.complete,
        started=started,
        seconds=seconds,
        request_bytes=watch.request_bytes,
        response_bytes=watch.response_bytes,
    )


async def _tell(on_exchange: OnExchange, record: ExchangeRecord) -> None:
    """Call the operator's function; an error of it is logged, for the answer has been given already."""
    try:
        result = on_exchange(record)
        if inspect.isawaitable(result):
            await result
    except Exception:
        logger.exception("on_exchange failed for request %s", record.request_id)
