"""The demo as a process of its own, as its reader starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from blocks import ROOT

__all__ = ["Demo", "demo", "started"]


class Demo:
    """A running demo, in a session of its own as in a terminal; reads its output as it comes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PYTHONIOENCODING": "utf-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, seconds: float = 20) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self.output, seconds), self.output

    def end(self, seconds: float = 20) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Demo]:
    """Start it, and end it and all that it started at the latest when the block ends."""
    demo = Demo(command, environment)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            os.killpg(demo.process.pid, signal.SIGKILL)
            demo.end()


@contextmanager
def demo(*arguments: str, **environment: str) -> Iterator[Demo]:
    """Start it with this interpreter."""
    with started([sys.executable, "-m", "examples.demo", *arguments], os.environ | environment) as demo:
        yield demo
