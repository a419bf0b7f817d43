"""``foreign``: what the middleware costs a request that is not the pool's, in process, in nanoseconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from .apps import keypool
from .goals import Goal, goals
from .stats import table

__all__ = ["run"]

_ADDED_MICROSECONDS = 0.5
_PATHS = ("/", "/api/items/42/comments/7", "/v1/assemblyaiX/v2/transcript")


async def _null(_scope: Any, _receive: Any, _send: Any) -> None:
    return


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    rounds, calls = (7, 20_000) if quick else (15, 100_000)
    wrapped = keypool("http://127.0.0.1:9", host=_null)
    rows, lines = [], []
    for path in _PATHS:
        alone, inside = [], []
        for _ in range(rounds):
            alone.append(_nanoseconds(_null, path, calls))
            inside.append(_nanoseconds(wrapped, path, calls))
        added = median([there - here for there, here in zip(inside, alone, strict=True)])
        rows.append([path, f"{median(alone):.0f}", f"{median(inside):.0f}", f"{added:.0f}"])
        lines.append(Goal(f"added us, {path}", added / 1e3, _ADDED_MICROSECONDS))
    yield table("foreign: a path that is not the pool's", ["path", "null app ns", "wrapped ns", "added ns"], rows)
    yield goals("foreign", *lines)


def _nanoseconds(app: Any, path: str, calls: int) -> float:
    """Processor time of one call of an app that never waits."""
    headers = [(b"host", b"bench"), (b"accept", b"*/*")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "headers": headers,
    }
    began = time.process_time_ns()
    for _ in range(calls):
        try:  # noqa: SIM105 - a context manager would cost as much as what is measured
            app(scope, None, None).send(None)
        except StopIteration:
            pass
    return (time.process_time_ns() - began) / calls
