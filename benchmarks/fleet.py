"""Child processes that end with the block that they are started in, and with this process, however it ends."""

from __future__ import annotations

import ctypes
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from . import proc

__all__ = ["ROOT", "Child", "Fleet", "die_with_parent"]

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60.0  # LiteLLM takes its time
_STOP_SECONDS = 10.0
ROOT = Path(__file__).parent.parent
_LIBC = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, even if that is killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child(NamedTuple):
    """A server process: its id and the port that it listens on."""

    pid: int
    port: int


class Fleet:
    """The processes of one benchmark. A context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.folder = Path()

    def __enter__(self) -> Fleet:
        """Make a temporary folder, and have as many file descriptors as may be."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="keypool-bench-")))
        self._errors = self._stack.enter_context((self.folder / "stderr").open("ab"))
        return self

    def __exit__(self, *error: object) -> None:
        """Stop every process and wait for it."""
        self._stack.close()

    def python(
        self, *arguments: str, on: int, interpreter: str = sys.executable, entry: str = "benchmarks.serve"
    ) -> Child:
        """Start a module of ours on a processor, with a listening socket of ours as ``--fd``."""
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            descriptor, port = listener.fileno(), listener.getsockname()[1]
            command = [interpreter, "-m", entry, *arguments, "--fd", str(descriptor)]
            child = Child(self._start(command, on, keep=[descriptor]), port)
        return self._ready(child)

    def nginx(self, configuration: str, *, on: int) -> Child:
        """Start nginx; ``{port}`` and ``{folder}`` in its configuration are filled in."""
        port = _free_port()
        folder = self.folder / f"nginx-{port}"
        folder.mkdir()
        file = folder / "nginx.conf"
        file.write_text(configuration.replace("{port}", str(port)).replace("{folder}", str(folder)), encoding="ascii")
        command = [_tool("nginx"), "-p", str(folder), "-c", str(file), "-e", str(folder / "error.log")]
        return self._ready(Child(self._start(command, on), port))

    def stop(self, child: Child) -> None:
        """Stop one process before the others."""
        _stop(self._processes[child.pid])

    def _start(self, command: Sequence[str], processor: int, keep: Sequence[int] = ()) -> int:
        def prepare() -> None:
            die_with_parent()
            proc.pin(processor)

        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=keep,
            preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread while it starts others
            start_new_session=True,  # so that Ctrl-C reaches only us, and we stop it
        )
        self._processes[process.pid] = process
        self._stack.callback(_stop, process)
        return process.pid

    def _ready(self, child: Child) -> Child:
        """Wait until a child answers."""
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", child.port), timeout=_START_SECONDS) as sock:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                    if sock.recv(1):
                        return child
            except OSError:
                time.sleep(0.05)
            if time.monotonic() > end or self._processes[child.pid].poll() is not None:
                said = (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")[-2000:]
                raise TimeoutError(f"process {child.pid} did not begin to answer\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise FileNotFoundError(name)
    return found
