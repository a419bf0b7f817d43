"""What the kernel knows about a process: processor time and memory (Linux)."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["cpu_seconds", "peak_bytes", "pin", "processors", "reset_peak", "resident_bytes"]


@cache
def processors() -> tuple[int, int]:
    """Return the processor for load and upstream, and the one for the servers under test; the same if there is one.

    Those that may be used when it is called first: before ``pin``.
    """
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def pin(processor: int) -> None:
    """Keep this process, and those that it starts, on one processor."""
    os.sched_setaffinity(0, {processor})


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, in the scheduler's nanoseconds and not in clock ticks."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Memory that a process occupies now."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Most memory that it has occupied since ``reset_peak``, or since it started."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Let the peak begin anew (proc(5), clear_refs).

    Raises:
        OSError: the kernel does not allow it.
    """
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(f"process {pid} has no {field}: has it ended?")
