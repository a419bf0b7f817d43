"""``instructions``: how many instructions a request, and a message, cost: the same whoever else uses the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

from . import proc
from .fleet import ROOT, Fleet, die_with_parent
from .stats import table

__all__ = ["run"]

_TIMES = 200
_LIMIT_SECONDS = 600
_WORKS = {
    "null": "a small GET, null app: asking alone",
    "foreign": "the same, a path that is not the pool's",
    "request": "a small GET, stub client",
    "forwarded": "a small GET, own client, loopback",
    "relayed": "ten messages of 3,200 bytes and a text, loopback",
}

# Without its model of the caches it only counts, and sooner than callgrind.
_COUNTING = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
_COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")


def run(*, quick: bool, profile: bool) -> Iterator[str]:  # noqa: ARG001 - every benchmark is called alike
    """Measure, and give out the table."""
    if shutil.which(_COUNTING[0]) is None:
        yield "\nvalgrind is not installed: instructions are not counted."
        return
    times = _TIMES // 4 if quick else _TIMES
    rows = [[_WORKS[work], f"{each:,.0f}"] for work, each in zip(_WORKS, _counted(times), strict=True)]
    yield table(f"instructions: the cost of {times} more", ["what", "instructions each"], rows)


def _counted(times: int) -> Iterator[float]:
    """Give what once more costs, of every work: the start and the end are the same in both of its processes."""
    command = [*_COUNTING, sys.executable, "-m", "benchmarks.work", *_WORKS, "--times", str(times)]
    with Fleet() as fleet:
        on = proc.processors()[0]
        for option, entry in (("--upstream", "benchmarks.serve"), ("--sockets", "benchmarks.sockets_serve")):
            command += [option, f"http://127.0.0.1:{fleet.python('upstream', on=on, entry=entry).port}"]
        said = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=_LIMIT_SECONDS,
            cwd=ROOT,
            preexec_fn=die_with_parent,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        ).stderr
    *counts, _parent = [int(digits.replace(",", "")) for digits in _COUNTED.findall(said)]
    for few, many in zip(counts[::2], counts[1::2], strict=True):
        yield (many - few) / times
