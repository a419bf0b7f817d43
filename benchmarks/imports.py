"""``import``: what importing the package costs beyond asyncio, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from .fleet import ROOT
from .goals import Goal, goals
from .stats import table

__all__ = ["run"]

_PACKAGE = "import keypool_asgi"
_STATEMENTS = (
    _PACKAGE,
    "from keypool_asgi import KeyPoolMiddleware",
    "from benchmarks.apps import keypool; keypool('http://127.0.0.1:9')",
    "import wsproto",
    "import httpx",
)
_MILLISECONDS = 30.0

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
    spent = {statement: median([int(words[0]) for words in runs]) / 1e6 for statement, runs in found.items()}
    rows = [
        [statement, f"{spent[statement]:.1f}", runs[0][1], " ".join(runs[0][2:])] for statement, runs in found.items()
    ]
    yield table("import: beyond asyncio", ["statement", "CPU ms", "modules", "of them"], rows)
    yield goals("import", Goal(f"CPU ms, {_PACKAGE}", spent[_PACKAGE], _MILLISECONDS))


def _executed(statement: str) -> list[str]:
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    return done.stdout.split()
