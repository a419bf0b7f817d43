"""Where the processor time of a request goes: by samples (py-spy, where it is installed), else by cProfile.

The profiler of Python 3.11 loses its place when an exception is thrown into a coroutine, which every cancelled task
is, and makes calls dearer than they are: its call counts are right, its times only say where to look.
"""

from __future__ import annotations

import pstats
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

__all__ = ["counted", "sampled", "sampler"]

_ROWS = 50
_RATE = 500


def sampler(pid: int, seconds: float, file: Path) -> subprocess.Popen[bytes] | None:
    """Start to sample a process, if there is a sampler: beside our interpreter, or on the path."""
    tool = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if tool is None:
        return None
    command = [tool, "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", str(_RATE)]
    command += ["--format", "raw", "--output", str(file), "--function"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sampled(file: Path, micros: float) -> str:
    """Return the functions by their own share of the samples.

    Args:
        file: what the sampler has written: lines of frames, outermost first, and their number.
        micros: processor time of a request in microseconds.
    """
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for line in file.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        inclusive.update(dict.fromkeys(frames, int(count)))
    total = own.total()
    lines = [f"\n### profile: {total} samples, {micros:.0f} us CPU a request\n", "  own us   cum us  function"]
    for frame, count in own.most_common(_ROWS):
        lines.append(f"{count / total * micros:8.1f} {inclusive[frame] / total * micros:8.1f}  {frame}")
    return "\n".join(lines)


def counted(file: Path, requests: int) -> str:
    """Return the functions by their own time in a cProfile, per request."""
    stats = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    rows = sorted(((own, total, calls, where) for where, (_, calls, own, total, _) in stats.items()), reverse=True)
    lines = [f"\n### profile: {requests} requests, per request\n", "   calls   own us   cum us  function"]
    for own, total, calls, where in rows[:_ROWS]:
        lines.append(
            f"{calls / requests:8.2f} {own / requests * 1e6:8.2f} {total / requests * 1e6:8.2f}  {_named(*where)}"
        )
    return "\n".join(lines)


def _named(file: str, line: int, function: str) -> str:
    path = Path(file)
    return function if file == "~" else f"{'/'.join(path.parts[-3:])}:{line} {function}"
