"""What every test module may need: missing tools, one event loop per call, exact bytes on a socket."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import shutil
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import pytest

__all__ = ["RawConnection", "need", "raw_http", "run", "tasks_left", "uncollected"]

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[2]


def need(*names: str) -> None:
    """Skip the test unless every named tool is here; fail it where KEYPOOL_TESTS_REQUIRE_ALL=1 (as .ci/run sets it).

    A name is a Python module, a program on the PATH, or ``npm:<package>``.
    """
    missing = [name for name in names if not _have(name)]
    if not missing:
        return
    message = f"not installed: {', '.join(missing)}"
    if os.environ.get("KEYPOOL_TESTS_REQUIRE_ALL") == "1":
        pytest.fail(f"{message} (KEYPOOL_TESTS_REQUIRE_ALL=1 allows no such skip)", pytrace=False)
    pytest.skip(message)


def _have(name: str) -> bool:
    if name.startswith("npm:"):
        package = name.removeprefix("npm:")
        return any((folder / package / "package.json").is_file() for folder in _node_modules())
    if shutil.which(name):
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _node_modules() -> list[Path]:
    """Where Node looks: NODE_PATH first, then the node_modules folders of the repository and above it."""
    listed = [Path(entry) for entry in os.environ.get("NODE_PATH", "").split(os.pathsep) if entry]
    nested = sorted(REPOSITORY.glob("tests/**/node_modules")) + sorted(REPOSITORY.glob("tests/**/*/node_modules"))
    return [*listed, *nested, *(folder / "node_modules" for folder in (REPOSITORY, *REPOSITORY.parents))]


@contextmanager
def uncollected(*kinds: type) -> Iterator[Callable[[], int]]:
    """Give a function that counts the objects of these types which are new, and not gone without a collection."""

    def count() -> int:
        return sum(type(one) in kinds for one in gc.get_objects())

    gc.collect()
    gc.disable()
    before = count()
    try:
        yield lambda: count() - before
    finally:
        gc.enable()


def tasks_left() -> list[str]:
    """Describe every unfinished task of the running loop but the current one."""
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]


def run(coroutine: Coroutine[Any, Any, T], *, within: float = 60.0) -> T:
    """Run a coroutine in a loop of its own; a task that it leaves behind is a failure."""

    async def checked() -> T:
        async with asyncio.timeout(within):
            result = await coroutine
        for _ in range(5):  # what was just cancelled or closed may need some turns to end
            if not tasks_left():
                break
            await asyncio.sleep(0.01)
        left = tasks_left()
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(checked(), debug=False)


class RawConnection:
    """A client socket for tests that need exact bytes, half requests or a hard break."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        tls = parts.scheme in ("https", "wss")
        sock = socket.create_connection((parts.hostname, parts.port or (443 if tls else 80)), timeout)
        self.sock: socket.socket = _unverified().wrap_socket(sock, server_hostname=parts.hostname) if tls else sock
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read_until(self, marker: bytes) -> bytes:
        """Read on until everything received holds ``marker``; TimeoutError or EOFError if it never does."""
        while marker not in self.received:
            chunk = self.sock.recv(65536)
            if not chunk:
                raise EOFError(f"closed before {marker!r}: {self.received!r}")
            self.received += chunk
        return self.received

    def read_to_end(self) -> bytes:
        """Read on until the peer closes; TimeoutError if it keeps the connection open."""
        try:
            while chunk := self.sock.recv(65536):
                self.received += chunk
        except ConnectionResetError:
            pass
        return self.received

    def reset(self) -> None:
        """Break the connection with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def raw_http(url: str, data: bytes, *, timeout: float = 5.0) -> bytes:
    """Send exact bytes and return what comes back until the peer closes, or stays silent for ``timeout``.

    Ask for ``Connection: close`` where the test does not want to wait for that silence.
    """
    with RawConnection(url, timeout=timeout) as connection:
        connection.send(data)
        try:
            return connection.read_to_end()
        except TimeoutError:
            return connection.received


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
