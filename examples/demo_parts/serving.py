"""An app on uvicorn, in a thread."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["listen", "serving"]

USUAL_PORT = 8000


def listen(port: int | None) -> socket.socket:
    """Bind a port of 127.0.0.1: this one, or 8000, or any other when 8000 is taken.

    Raises:
        OSError: the port that was asked for is taken.
    """
    if port is not None:
        return _bind(port)
    try:
        return _bind(USUAL_PORT)
    except OSError:
        return _bind(0)


def _bind(port: int) -> socket.socket:
    sock = socket.socket()
    if os.name != "nt":  # there it would share a port that is taken
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


@contextmanager
def serving(app: Any, sock: socket.socket) -> Iterator[str]:
    """Serve until the block ends; yields the base URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="uvicorn")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
