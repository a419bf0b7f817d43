"""Entry of the child processes: ``python -m benchmarks.sockets_serve upstream|keypool --fd N [--upstream URL]``."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import signal
import socket
from contextlib import suppress

from . import loops, sockets_upstream
from .apps import keypool

__all__ = ["main"]


def main() -> None:
    """Serve the pool, or the upstream, on a socket that is listening already, until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["upstream", "keypool"])
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--profile", help="where to write a cProfile")
    options = parser.parse_args()
    sock = socket.socket(fileno=options.fd)
    if options.name == "upstream":
        with suppress(asyncio.CancelledError):
            loops.run(_until_told(sock))
    else:
        _serve_pool(options.upstream, sock, options.profile)


def _serve_pool(upstream: str, sock: socket.socket, profile_file: str | None) -> None:
    import uvicorn

    # uvicorn raises the signal again after its orderly shutdown; a profile is still to be written then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    config = uvicorn.Config(
        keypool(upstream),
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    config.load()
    server = uvicorn.Server(config)
    if profile_file is None:
        server.run(sockets=[sock])
        return
    with cProfile.Profile() as profile:
        server.run(sockets=[sock])
    profile.dump_stats(profile_file)


async def _until_told(sock: socket.socket) -> None:
    task = asyncio.ensure_future(sockets_upstream.serve(sock))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


if __name__ == "__main__":
    main()
