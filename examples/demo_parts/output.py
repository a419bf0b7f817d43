"""What the demo prints: plain lines, at once, from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from keypool_asgi import ExchangeRecord

__all__ = ["Journal", "progress", "say"]

PROGRESS_SECONDS = 5.0


def say(line: str = "") -> None:
    print(line, flush=True)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Print a line every few seconds for as long as the work goes on."""
    done = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        while not done.wait(PROGRESS_SECONDS):
            say(f"     ... still {what}, {time.monotonic() - began:.0f} s")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Journal:
    """Prints a line for each exchange of the pool; given to it as ``on_exchange``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: list[ExchangeRecord] = []

    def __call__(self, record: ExchangeRecord) -> None:
        say(f"     {_line(record)}")
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Wait until so many exchanges are printed: the last one ends just after its caller has the answer."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._records) >= count, timeout=5)

    @property
    def last(self) -> ExchangeRecord:
        with self._changed:
            return self._records[-1]


def _line(record: ExchangeRecord) -> str:
    size = record.request_bytes + record.response_bytes
    return f"{record.operation:<22} {record.status}  {_walk(record)}  ({size:,} bytes, {record.seconds * 1000:.0f} ms)"


def _walk(record: ExchangeRecord) -> str:
    if record.refused:
        return f"refused by the pool: {record.refused}"
    if not record.keys:
        return "answered by the pool"
    *passed, served = record.keys
    return "".join(f"key {key} was refused, " for key in passed) + f"key {served} served"
