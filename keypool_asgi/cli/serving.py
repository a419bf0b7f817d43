"""A pool on uvicorn: the app of a configuration file, the socket, the log, and an end in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType
from typing import Any

from keypool_asgi.asgi import ASGIApp, Receive, Scope, Send
from keypool_asgi.configuration import Configuration, build, load
from keypool_asgi.settings import Settings
from keypool_asgi.stack import KeyPool
from keypool_asgi.stages.intercept import ExchangeRecord

from .failures import Failed

__all__ = ["CONFIG_VARIABLE", "LOGGING", "DrainOnSignal", "create_app", "listen", "make_app"]

CONFIG_VARIABLE = "KEYPOOL_CONFIG"
"""Environment variable by which worker processes learn of the configuration file."""


class WithoutUrls(logging.Filter):
    """Drops the lines that uvicorn writes about WebSockets, at INFO and whatever ``access_log`` says: with their URLs.

    A browser's temporary token stands in the query.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record may be written."""
        return '"WebSocket %s"' not in str(record.msg)


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"without URLs": {"()": WithoutUrls}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["without URLs"]}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"keypool_asgi": {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
}
"""What is logged, to stderr. Not uvicorn's access log, which has URLs, too."""

Handler = Callable[[int, FrameType | None], Any]

logger = logging.getLogger("keypool_asgi.exchanges")


def create_app() -> ASGIApp:
    """Make the app of the file that ``KEYPOOL_CONFIG`` names, for a server's workers.

    Raises:
        ConfigurationError: something in the file is wrong.
    """
    path = os.environ[CONFIG_VARIABLE]
    return make_app(path, load(path))


def make_app(path: str, configuration: Configuration) -> ASGIApp:
    """Make the app of a configuration file.

    Raises:
        ConfigurationError: something in the file is wrong.
    """
    settings: Settings = {"on_exchange": log_exchange} if configuration.server.log_exchanges else {}
    pool = build(KeyPool, path, settings)
    # What is loaded now stays. Full garbage collections, which hold up every session, need not visit it.
    gc.collect()
    gc.freeze()
    return DrainOnSignal(pool, drain=pool.drain)


def log_exchange(record: ExchangeRecord) -> None:
    """Log a line about an exchange: names and figures, never a path or a credential."""
    logger.info(
        "%s %s %s keys=%s in=%d out=%d ms=%d id=%s%s",
        record.team or "-",
        record.operation,
        record.close_code or record.status or "-",
        ",".join(record.keys) or "-",
        record.request_bytes,
        record.response_bytes,
        record.seconds * 1000,
        record.request_id,
        f" refused={record.refused}" if record.refused else "",
    )


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Raises:
        Failed: the address cannot be used; the message says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, because asyncio sets TCP_NODELAY only then.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name != "nt":  # there it would share a port that is taken
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except (OSError, UnicodeError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or "it is no address of this machine"
        raise Failed(f"{host}, port {port}, cannot be listened on: {reason}; choose with --host and --port") from None
    return sock


class DrainOnSignal:
    """Drains the pool when the process is told to end, and only then lets the server see the signal.

    Servers close WebSocket connections first of all. Drained first, sessions end in order, with upstream's last words.
    A second signal goes to the server at once.

    Args:
        app: what is served.
        drain: ends the exchanges that are going on, within a time of its own.
    """

    def __init__(self, app: ASGIApp, *, drain: Callable[[], Awaitable[None]]) -> None:
        self.app = app
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None
        self._signalled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on. When the lifespan begins, the server has set its handlers, for us to stand before."""
        if scope["type"] == "lifespan" and threading.current_thread() is threading.main_thread():
            self._stand_before_handlers()
        await self.app(scope, receive, send)

    def _stand_before_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, partial(self._caught, loop, handler))

    def _caught(self, loop: asyncio.AbstractEventLoop, handler: Handler, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            handler(number, frame)
            return
        self._signalled = True
        loop.call_soon_threadsafe(self._begin, partial(handler, number, None))

    def _begin(self, hand_on: Callable[[], Any]) -> None:
        self._draining = asyncio.ensure_future(self._end(hand_on))

    async def _end(self, hand_on: Callable[[], Any]) -> None:
        try:
            await self._drain()
        finally:
            hand_on()
