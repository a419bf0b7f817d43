"""``import``: what importing the package costs beyond asyncio, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from .stats import table

__all__ = ["run"]

_STATEMENTS = ("import keypool_asgi", "from keypool_asgi import KeyPoolMiddleware", "import wsproto", "import httpx")

_PROGRAM = """
import asyncio, sys, time
before, began = set(sys.modules), time.process_time_ns()
{statement}
spent, new = time.process_time_ns() - began, set(sys.modules) - before
print(spent, len(new), *[name for name in ("httpx", "wsproto", "h11", "httptools", "sqlite3") if name in new])
"""


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    found: dict[str, list[list[str]]] = {statement: [] for statement in _STATEMENTS}
    for _ in range(5 if quick else 21):
        for statement in _STATEMENTS:
            found[statement].append(_executed(statement))
    rows = []
    for statement, runs in found.items():
        milliseconds = median([int(words[0]) for words in runs]) / 1e6
        rows.append([statement, f"{milliseconds:.1f}", runs[0][1], " ".join(runs[0][2:])])
    yield table("import: beyond asyncio", ["statement", "CPU ms", "modules", "of them"], rows)


def _executed(statement: str) -> list[str]:
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
