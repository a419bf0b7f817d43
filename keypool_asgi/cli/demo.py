"""``keypool demo``: the pool on AssemblyAI simulated, to see it work. It needs no account and no network."""

from __future__ import annotations

import argparse
import logging.config
import secrets
import signal
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from types import FrameType
from typing import TYPE_CHECKING

from keypool_asgi.errors import ConfigurationError

from .failures import Failed, need

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from keypool_asgi.asgi import ASGIApp
    from keypool_asgi.testing import Simulator

__all__ = ["add_parser", "run"]

_USUAL_PORT = 8000

_KEYS = {"old-1": "retired", "prod-1": "prod", "prod-2": "prod"}
"""Name to project of the demo's keys, in the order in which they are tried. The first one is refused."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="see the pool work, on AssemblyAI simulated",
        description="Simulates AssemblyAI, puts a pool of three keys before it, one of which is refused, and "
        "transcribes a generated recording through it. Then it serves until Ctrl-C, for requests of your own. It needs "
        "no account and no network.",
    )
    parser.add_argument("--port", type=int, help="port to serve on (8000, or any free one when that is taken)")
    parser.add_argument("--once", action="store_true", help="end after the steps, instead of serving until Ctrl-C")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run the demo."""
    need("keypool demo", "uvicorn")
    from keypool_asgi.testing import Simulator

    from .serving import LOGGING
    from .walk import Walk

    logging.config.dictConfig({**LOGGING, "loggers": {"keypool_asgi": {"level": "INFO"}}})
    signal.signal(signal.SIGTERM, _interrupt)
    places = {f"simulated-{name}": f"account/{project}" for name, project in _KEYS.items()}
    try:
        with _listening(given.port) as sock, Simulator(places, processing_seconds=1.0).running() as upstream:
            upstream.revoke_key("simulated-old-1")
            token = f"kpt_{secrets.token_urlsafe(32)}"
            app, has_reference = _app(upstream, token)
            with _serving(app, sock) as url:
                Walk(url, token).run(has_reference=has_reference)
                while not given.once and not Event().wait(1.0):  # in pieces: Windows would not see Ctrl-C
                    pass
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
    return 0


def _app(upstream: Simulator, token: str) -> tuple[ASGIApp, bool]:
    """The pool, with the API reference where that is installed; and whether it is."""
    from keypool_asgi.core.keys import UpstreamKey
    from keypool_asgi.core.teams import Team
    from keypool_asgi.stack import KeyPool

    from .serving import log_exchange

    keys = [
        UpstreamKey(name, f"simulated-{name}", project=project, priority=number)
        for number, (name, project) in enumerate(_KEYS.items())
    ]
    origins = {str(service): url for service, url in upstream.origins.items()}
    make = partial(KeyPool, keys=keys, teams={token: Team("demo")}, origins=origins, on_exchange=log_exchange)
    try:
        return make(reference=True), True
    except ConfigurationError:
        return make(), False


def _listening(port: int | None) -> socket.socket:
    """Listen on this port of 127.0.0.1; on the usual one, or any other when that is taken, if none is given."""
    from .serving import listen

    if port is not None:
        return listen("127.0.0.1", port)
    try:
        return listen("127.0.0.1", _USUAL_PORT)
    except Failed:
        return listen("127.0.0.1", 0)


@contextmanager
def _serving(app: ASGIApp, sock: socket.socket) -> Iterator[str]:
    """Serve in a thread until the block ends; yields the base URL."""
    import uvicorn

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, kwargs={"sockets": [sock]}, name="uvicorn")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise Failed("the server did not start")
            Event().wait(0.01)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
