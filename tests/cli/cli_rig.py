"""Commands as their user runs them: processes of their own, whose every output is searched for secrets."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.leaks import SECRET_MARK

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "keypool_asgi"]
PEPPER = "pp-kp-pepper-of-the-tests"


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The process's own environment, without what it may say about a pool."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KEYPOOL_", "ASSEMBLYAI_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "COLUMNS": "100"} | dict(more)


def keypool(*arguments: str, folder: Path = ROOT, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and check its exit code and that it has not said any secret."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        cwd=folder,
        env=environment(variables),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    check_secrets(said)
    return done


def check_secrets(said: str) -> None:
    assert SECRET_MARK not in said, said
    assert PEPPER not in said, said


class Running:
    """A command that goes on; its output is read as it comes."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, variables: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
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

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """Wait for a line that holds a text, and return it."""
        with self._more:
            assert self._more.wait_for(lambda: text in self.output, seconds), self.output
        return next(line for line in self.lines if text in line)

    def end(self, seconds: float = 30) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextmanager
def running(*arguments: str, folder: Path = ROOT, **variables: str) -> Iterator[Running]:
    """Run a command for the time of the block, which should end it."""
    command = Running(arguments, folder, variables)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.end()
        check_secrets(command.output)


def toml(value: Any) -> str:
    """Write plain values as TOML, every table inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float | datetime.datetime):
        return repr(value) if isinstance(value, float) else value.isoformat()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(path: Path, **settings: Any) -> Path:
    """Write a configuration file."""
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in settings.items()), encoding="utf-8")
    return path
