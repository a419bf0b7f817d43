"""What the kernel knows about a process: processor time and memory (Linux)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

__all__ = ["cpu_seconds", "peak_of", "pin", "processors", "resident_bytes", "rest"]

_LOOK_SECONDS, _IDLE = 0.05, 0.1


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


def rest(pid: int, most_seconds: float = 3.0) -> None:
    """Wait until a process is idle: what it has not finished would disturb whoever shares its processor."""
    end, spent = time.monotonic() + most_seconds, -1.0
    while time.monotonic() < end and cpu_seconds(pid) - spent > _IDLE * _LOOK_SECONDS:
        spent = cpu_seconds(pid)
        time.sleep(_LOOK_SECONDS)


def resident_bytes(pid: int) -> int:
    """Memory that a process occupies now."""
    return _status(pid, "VmRSS")


@contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """Give a list that has the most memory which a process occupied during the block, once the block has ended.

    The kernel keeps this mark, and lets it begin anew (proc(5), clear_refs). Where it does not, 50 looks a second do.
    """
    found = [resident_bytes(pid)]
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        with _sampled(pid, found):
            yield found
    else:
        yield found
        found[0] = _status(pid, "VmHWM")


@contextmanager
def _sampled(pid: int, found: list[int]) -> Iterator[None]:
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            found[0] = max(found[0], resident_bytes(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(f"process {pid} has no {field}: has it ended?")
