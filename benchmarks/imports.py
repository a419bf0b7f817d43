"""``import``: what importing the package costs beyond asyncio, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from .stats import table

__all__ = ["run"]

_MODULES = ("keypool_asgi", "wsproto", "httpx")

_PROGRAM = """
import asyncio, sys, time
before, began = len(sys.modules), time.process_time_ns()
import {module}
print(time.process_time_ns() - began, len(sys.modules) - before,
      *[name for name in ("httpx", "wsproto", "h11", "httptools", "ssl") if name in sys.modules])
"""


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    found: dict[str, list[list[str]]] = {module: [] for module in _MODULES}
    for _ in range(5 if quick else 21):
        for module in _MODULES:
            found[module].append(_imported(module))
    rows = []
    for module, runs in found.items():
        milliseconds = median([int(words[0]) for words in runs]) / 1e6
        rows.append([module, f"{milliseconds:.1f}", runs[0][1], " ".join(runs[0][2:])])
    yield table("import: beyond asyncio", ["module", "CPU ms", "modules", "of them"], rows)


def _imported(module: str) -> list[str]:
    command = [sys.executable, "-c", _PROGRAM.format(module=module)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
