"""Entry of the child processes: ``python -m benchmarks.serve NAME --fd N [--upstream URL] [--profile FILE] ...``."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import signal
import socket
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from . import loops, upstream
from .apps import make_app

__all__ = ["main"]


def main() -> None:
    """Serve an app, or the upstream, on a socket that is listening already, until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--folder", default="", help="for files that the app keeps")
    parser.add_argument("--profile", help="where to write a cProfile")
    options = parser.parse_args()
    sock = socket.socket(fileno=options.fd)
    if options.name == "upstream":
        _serve_upstream(sock)
    else:
        _serve_app(make_app(options.name, options.upstream, options.folder), sock, options.profile)


def _serve_app(app: Any, sock: socket.socket, profile_file: str | None) -> None:
    import uvicorn

    # uvicorn raises the signal again after its orderly shutdown; a profile is still to be written then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    sockets = "websockets-sansio" if find_spec("websockets") else "none"
    config = uvicorn.Config(app, http="httptools", ws=sockets, log_level="error", access_log=False, lifespan="auto")
    config.load()
    server = uvicorn.Server(config)
    if profile_file is None:
        server.run(sockets=[sock])
        return
    with cProfile.Profile() as profile:
        server.run(sockets=[sock])
    profile.dump_stats(profile_file)


def _serve_upstream(sock: socket.socket) -> None:
    with suppress(asyncio.CancelledError):
        loops.run(_until_told(sock))


async def _until_told(sock: socket.socket) -> None:
    task = asyncio.ensure_future(upstream.serve(sock))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


if __name__ == "__main__":
    main()
