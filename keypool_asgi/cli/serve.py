"""``keypool serve``: the pool alone, on uvicorn, as a configuration file says."""

from __future__ import annotations

import argparse
import logging.config
import os
import signal
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from .failures import DEFAULT_FILE, need, wrong_use

if TYPE_CHECKING:
    from keypool_asgi.configuration import ServerSettings

__all__ = ["add_parser", "run"]

# The pool has been drained before the server begins to end; what is left then are connections between two requests.
_SERVER_GRACE_SECONDS = 1

_FLAGS = ("host", "port", "workers", "tls_certificate", "tls_key")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="serve the pool alone, without a host app",
        description="Serves the pool that a configuration file describes, on uvicorn. What is given here goes before "
        "the file's [server]. Ctrl-C or SIGTERM ends it: new requests are refused, those that are going on may end "
        "within drain_seconds, and sessions are closed in order; a second signal ends it at once.",
    )
    parser.add_argument(
        "--config", default=DEFAULT_FILE, metavar="FILE", help=f"configuration file (default: {DEFAULT_FILE})"
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0 takes a free one (default: 8000)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: 1)")
    parser.add_argument("--tls-certificate", metavar="FILE", help="certificate chain (PEM), to serve https")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    need("keypool serve", "uvicorn")
    from .serving import LOGGING

    logging.config.dictConfig(LOGGING)
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has ended in order
        _serve(given)
    return 0


def _serve(given: argparse.Namespace) -> None:
    # The longest request line that websockets takes, read when it is imported: prompts and key terms are in the query.
    os.environ.setdefault("WEBSOCKETS_MAX_LINE_LENGTH", "65536")
    import uvicorn

    from keypool_asgi.configuration import Place, check_server, load

    from .serving import CONFIG_VARIABLE, listen, make_app

    with wrong_use():
        configuration = load(given.config)
        server = _server(configuration.server, given)
        check_server(server, Place(given.config, "[server] and options"))
        app = make_app(given.config, configuration)
    options = _options(server)
    if server.workers > 1:
        _warn_of_memory(configuration.settings.get("state"))
        listen(server.host, server.port).close()  # so that a port that is taken is told as in the other case
        os.environ[CONFIG_VARIABLE] = given.config
        uvicorn.run("keypool_asgi.cli.serving:create_app", factory=True, workers=server.workers, **options)
        return
    with listen(server.host, server.port) as sock:
        _announce(server, sock.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[sock])


def _server(server: ServerSettings, given: argparse.Namespace) -> ServerSettings:
    """The file's settings, under those of the command line."""
    return replace(server, **{name: value for name in _FLAGS if (value := getattr(given, name)) is not None})


def _options(server: ServerSettings) -> dict[str, Any]:
    from .serving import LOGGING

    return {
        "host": server.host,
        "port": server.port,
        "ssl_certfile": server.tls_certificate,
        "ssl_keyfile": server.tls_key,
        "forwarded_allow_ips": list(server.forwarded_allow_ips),
        "lifespan": "on",
        "log_config": LOGGING,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": _SERVER_GRACE_SECONDS,
    }


def _warn_of_memory(state: str | None) -> None:
    if state is None:
        logging.getLogger("keypool_asgi").warning(
            "several workers without state: each counts limits and remembers owners for itself, so that teams get a "
            "multiple of their limits and do not find again what they created; set state"
        )


def _announce(server: ServerSettings, port: int) -> None:
    scheme = "https" if server.tls_certificate else "http"
    host = f"[{server.host}]" if ":" in server.host else server.host
    print(f"Serving the pool on {scheme}://{host}:{port}", flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
