"""A pool as an operator serves it: in a process of its own, started by a server's own command."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
_SETTINGS = "KEYPOOL_TEST_SETTINGS"

COMMANDS = {
    "uvicorn-websockets": "-m uvicorn --ws websockets --http h11 --port {port}",
    "uvicorn-websockets-sansio": "-m uvicorn --ws websockets-sansio --http httptools --port {port}",
    "uvicorn-wsproto": "-m uvicorn --ws wsproto --http h11 --port {port}",
    "hypercorn": "-m hypercorn --bind 127.0.0.1:{port}",
    "granian": "-m granian --interface asgi --loop asyncio --port {port}",
    "granian-uvloop": "-m granian --interface asgi --loop uvloop --port {port}",
}


@dataclass(frozen=True)
class Process:
    """A running server; ``pid`` is that of the process in which the app runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Granian has its workers in processes of their own."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return max([self.process.pid, *map(int, children)])

    def rss(self) -> int:
        """Bytes of memory that are resident."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def ask_to_stop(self) -> None:
        self.process.terminate()


@contextlib.contextmanager
def served_apart(server: str, folder: Path, *options: str, **settings: Any) -> Iterator[Process]:
    """Serve ``app`` of this module.

    Args:
        server: one of the harness's ``SOCKET_SERVERS``.
        folder: where its log goes.
        options: of the server's command.
        settings: ``origins``, and those of ``SessionLimits``, as JSON has them.
    """
    from harness import free_port, need

    need(server.split("-", maxsplit=1)[0])
    port = free_port()
    log = folder / f"{server}.log"
    command = [sys.executable, *COMMANDS[server].format(port=port).split(), *options, "matrix.session_server:app"]
    environment = os.environ | {_SETTINGS: json.dumps(settings), "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)
    try:
        _wait_until_up(process, port, log)
        yield Process(process, port, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import httpx

    end = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=5)
            return
        time.sleep(0.05)


def _app() -> Any:
    from matrix.callers import settings_of

    from keypool_asgi import KeyPool, SessionLimits

    given = json.loads(os.environ[_SETTINGS])
    simulator: Any = SimpleNamespace(origins=given.pop("origins"))
    return KeyPool(**settings_of(simulator, sessions=SessionLimits(**given)))


if _SETTINGS in os.environ:
    app = _app()
