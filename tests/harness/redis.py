"""A real redis-server on a free port, in a folder of its own, that can be stopped, killed and started again."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .servers import _certificate as make_certificate
from .servers import free_port
from .tools import need

__all__ = ["RedisProcess", "redis_server"]

START_SECONDS = 10.0


class RedisProcess:
    """A redis-server; ``url`` stays the same when it is started again.

    Args:
        folder: where it keeps its files, so that it finds them when it is started again.
        options: its own options, such as ``{"appendonly": "yes"}``; it keeps nothing without any.
    """

    def __init__(self, folder: Path, options: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = {"save": "", "bind": "127.0.0.1", "loglevel": "warning", **options}
        self._process: subprocess.Popen[bytes] | None = None

    def add_tls(self) -> tuple[str, Path]:
        """Have it listen with TLS too, from its next start; return that URL and the certificate to trust."""
        certificate, key = make_certificate(self._folder)
        port = str(free_port())
        self._options |= {"tls-port": port, "tls-cert-file": str(certificate), "tls-key-file": str(key)}
        self._options["tls-auth-clients"] = "no"
        return f"rediss://localhost:{port}/0", certificate

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        command = ["redis-server", "--port", str(self.port), "--dir", str(self._folder), *words]
        log = (self._folder / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it as an operator does: it writes down what it must keep."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with ``kill -9``."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: it takes connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def join_alone(self) -> None:
        """Make a cluster of it alone: it then refuses scripts whose keys lie in several hash slots."""
        self.ask("cluster", "addslotsrange", "0", "16383")
        deadline = time.monotonic() + START_SECONDS
        while "cluster_state:ok" not in self.ask("cluster", "info"):
            assert time.monotonic() < deadline, "the cluster did not come up"
            time.sleep(0.01)

    def ask(self, *words: str) -> str:
        """Return what redis-cli prints for a command."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(5) in (b"+PONG", b"-NOAU")  # not while it loads its data
        return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_SECONDS)


@contextlib.contextmanager
def redis_server(**options: str) -> Iterator[RedisProcess]:
    """Run a redis-server; skip the test where there is none."""
    need("redis-server", "redis-cli", "redis")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisProcess(Path(folder), {name.replace("_", "-"): value for name, value in options.items()})
        try:
            server.start()
            yield server
        finally:
            with contextlib.suppress(AssertionError, ProcessLookupError):
                server.resume()
            server.kill()
