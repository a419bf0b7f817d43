"""Real ASGI servers on real sockets: the same app object under each of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import socket
import subprocess
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .leaks import guard
from .tools import need

__all__ = ["SERVERS", "SOCKET_SERVERS", "Served", "free_port", "serve"]

SERVERS = ("uvicorn-h11", "uvicorn-httptools", "hypercorn", "granian")

SOCKET_SERVERS = (
    "uvicorn-websockets",
    "uvicorn-websockets-sansio",
    "uvicorn-wsproto",
    "hypercorn",
    "granian",
    "granian-uvloop",
)
"""Every implementation of WebSockets; those named above serve them as well, uvicorn's with ``websockets-sansio``."""

START_SECONDS = 10.0
STOP_SECONDS = 10.0
GRACE_SECONDS = 1  # for open connections when a server stops


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: ``url + "/hello"`` reaches the app's ``/hello``, whatever the root path."""

    server: str
    scheme: str
    port: int
    path: str
    loop: asyncio.AbstractEventLoop
    ca: Path | None
    own_tasks: frozenset[asyncio.Task[Any]]

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"

    @property
    def ws_url(self) -> str:
        return f"{self.scheme.replace('http', 'ws')}://{self.host}{self.path}"

    @property
    def host(self) -> str:
        # A certificate names hosts, and some clients do not look for addresses in it.
        return f"{'localhost' if self.ca else '127.0.0.1'}:{self.port}"

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call an async function in the server's own loop and return its result."""
        return asyncio.run_coroutine_threadsafe(function(*args), self.loop).result(STOP_SECONDS)

    def settle(self, within: float = 2.0) -> None:
        """Wait until no task is left but those that were there before the first request; fail if some stay.

        Close the client's connections first: hypercorn has a task for each.
        """
        left = self.call(_ended, self.own_tasks, within)
        assert not left, f"tasks left after {within} s: {left}"


@dataclass(frozen=True, slots=True)
class _Options:
    root_path: str
    lifespan: str
    certificate: Path | None
    key: Path | None
    more: dict[str, Any]


@contextlib.contextmanager
def serve(
    app: Any,
    server: str = "uvicorn-httptools",
    *,
    root_path: str = "",
    tls: bool = False,
    lifespan: str = "on",
    guarded: bool = True,
    **more: Any,
) -> Iterator[Served]:
    """Serve an ASGI app object on a free port of 127.0.0.1, in a thread with a loop of its own.

    Args:
        app: the ASGI app.
        server: one of ``SERVERS`` or ``SOCKET_SERVERS``.
        guarded: scan everything that the app sends for key secrets (see ``leaks``).
        root_path: as behind a reverse proxy. uvicorn prefixes it itself, hypercorn and granian want it in the request.
        tls: with a self-made certificate for localhost and 127.0.0.1; ``Served.ca`` is the file to trust.
        lifespan: ``on``, ``off``, or ``auto`` for apps that raise on it, such as Django's.
        more: settings of that server's own configuration.
    """
    start = _starter(server)
    with tempfile.TemporaryDirectory() if tls else contextlib.nullcontext() as folder:
        certificate, key = _certificate(Path(folder)) if folder else (None, None)
        options = _Options(root_path, lifespan, certificate, key, more)
        serving = start(guard(app) if guarded else app, options)
        thread = _ServerThread(serving, uvloop=server.endswith("-uvloop"))
        port = thread.start()
        path = "" if server.startswith("uvicorn") else root_path
        try:
            yield Served(server, "https" if tls else "http", port, path, thread.loop, certificate, thread.own_tasks)
        finally:
            thread.stop()


def free_port() -> int:
    """A port that was free a moment ago, for servers that cannot take a bound socket."""
    with _listener() as sock:
        return int(sock.getsockname()[1])


def _listener() -> socket.socket:
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where the protocol is named
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # granian binds the port beside us
    sock.bind(("127.0.0.1", 0))
    return sock


class _ServerThread:
    """Runs one server, an async context manager that yields its port, from ``start`` to ``stop``."""

    loop: asyncio.AbstractEventLoop
    own_tasks: frozenset[asyncio.Task[Any]]

    def __init__(self, server: contextlib.AbstractAsyncContextManager[int], *, uvloop: bool) -> None:
        self._server = server
        self._uvloop = uvloop
        self._changed = threading.Event()
        self._port: int | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="test-server", daemon=True)

    def start(self) -> int:
        self._thread.start()
        assert self._changed.wait(START_SECONDS), "the server did not start"
        if self._port is None:
            self._thread.join(STOP_SECONDS)
            raise RuntimeError("the server did not start") from self._error
        return self._port

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already: the server ended by itself
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with asyncio.Runner(debug=False, loop_factory=_uvloop() if self._uvloop else None) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            self._error = error
        finally:
            self._changed.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._server as port:
            self._port = port
            self.own_tasks = frozenset(asyncio.all_tasks())
            self._changed.set()
            await self._stop.wait()
        left = await _ended(frozenset(), STOP_SECONDS / 10)
        assert not left, f"the app left tasks behind: {left}"


async def _ended(known: frozenset[asyncio.Task[Any]], within: float) -> list[str]:
    """Wait for the end of all tasks but ours and the known ones; describe those that go on."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        left = [task for task in asyncio.all_tasks() - known if task is not asyncio.current_task()]
        if not left or asyncio.get_running_loop().time() > deadline:
            return [repr(task) for task in left]
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _uvicorn(app: Any, options: _Options, http: str, ws: str = "auto") -> AsyncIterator[int]:
    import uvicorn

    settings = {"log_config": None, "log_level": "info", "timeout_graceful_shutdown": GRACE_SECONDS}
    config = uvicorn.Config(
        app,
        http=http,
        ws=ws,  # type: ignore[arg-type]
        lifespan=options.lifespan,  # type: ignore[arg-type]
        root_path=options.root_path,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
        **(settings | options.more),
    )
    server = uvicorn.Server(config)
    sock = _listener()
    # Without this, uvicorn's exit on a failed startup would also end the thread's loop before anyone has seen why.
    task = asyncio.ensure_future(_without_exit(server.serve(sockets=[sock])))
    try:
        await _until(lambda: server.started, task)
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        with sock:
            await task


async def _without_exit(serving: Any) -> None:
    try:
        await serving
    except SystemExit as exit_:
        raise RuntimeError("uvicorn gave up") from exit_


@contextlib.asynccontextmanager
async def _hypercorn(app: Any, options: _Options) -> AsyncIterator[int]:
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    config = Config()
    sock = _listener()
    config.bind = [f"fd://{sock.dup().detach()}"]  # hypercorn closes the one that it is given
    config.root_path = options.root_path
    config.graceful_timeout = GRACE_SECONDS
    if options.certificate and options.key:
        config.certfile, config.keyfile = str(options.certificate), str(options.key)
    config.errorlog = logging.getLogger("hypercorn.error")
    for name, value in options.more.items():
        setattr(config, name, value)
    if options.lifespan == "off":
        app = _without_lifespan(app)
    stop = asyncio.Event()
    task = asyncio.ensure_future(hypercorn_serve(app, config, shutdown_trigger=stop.wait, mode="asgi"))
    try:
        await _until(lambda: bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)), task)
        yield sock.getsockname()[1]
    finally:
        stop.set()
        with sock:
            await task


@contextlib.asynccontextmanager
async def _granian(app: Any, options: _Options) -> AsyncIterator[int]:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    up = asyncio.Event()
    sock = _listener()  # holds the port, without listening, until granian has bound it too
    port = int(sock.getsockname()[1])
    server = Server(
        _announcing(app, up),
        port=port,
        interface=Interfaces.ASGINL if options.lifespan == "off" else Interfaces.ASGI,
        url_path_prefix=options.root_path or None,
        ssl_cert=options.certificate,
        ssl_key=options.key,
        log_dictconfig=_GRANIAN_LOGGING,
        **options.more,
    )
    task = asyncio.ensure_future(server.serve())
    try:
        await _until(lambda: (up.is_set() or options.lifespan == "off") and _answers(port), task)
        yield port
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        with sock:
            await task


# Merged over granian's own, which would send its records past the root logger, where the leak guard listens.
_GRANIAN_LOGGING: dict[str, Any] = {"incremental": True, "handlers": {}, "formatters": {}, "loggers": {}}


def _starter(server: str) -> Callable[[Any, _Options], contextlib.AbstractAsyncContextManager[int]]:
    if server == "uvicorn-h11":
        need("uvicorn", "h11")
        return functools.partial(_uvicorn, http="h11")
    if server == "uvicorn-httptools":
        need("uvicorn", "httptools")
        return functools.partial(_uvicorn, http="httptools")
    if server in ("uvicorn-websockets", "uvicorn-websockets-sansio", "uvicorn-wsproto"):
        ws = server.removeprefix("uvicorn-")
        need("uvicorn", "h11", ws.partition("-")[0])
        if ws == "websockets":
            _import_deprecated("uvicorn.protocols.websockets.websockets_impl")
        return functools.partial(_uvicorn, http="h11", ws=ws)
    if server in ("hypercorn", "granian", "granian-uvloop"):
        need(*server.split("-"))
        return _hypercorn if server == "hypercorn" else _granian
    raise ValueError(f"unknown server {server!r}; one of {SERVERS + SOCKET_SERVERS}")


def _import_deprecated(module: str) -> None:
    """Import what warns that it will be gone, and is tested while it is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(module)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop


def _without_lifespan(app: Any) -> Any:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("lifespan is off")
        await app(scope, receive, send)

    return refusing


def _announcing(app: Any, up: asyncio.Event) -> Any:
    """Set ``up`` when the app has answered the lifespan's startup, or does not support it."""

    async def announcing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return

        async def watched(message: Any) -> None:
            await send(message)
            up.set()

        try:
            await app(scope, receive, watched)
        finally:
            up.set()

    return announcing


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def _until(ready: Callable[[], bool], task: asyncio.Future[Any]) -> None:
    """Wait until the server is ready; raise what ended it instead."""
    while not ready():
        if task.done():
            task.result()
            raise RuntimeError("the server ended before it was ready")
        await asyncio.sleep(0.01)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for localhost that clients can be told to trust."""
    need("openssl")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return certificate, key
