"""``python -m benchmarks [NAMES...] [--quick] [--profile]``: run benchmarks and print their tables."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator

from . import foreign, imports, instructions, memory, proc, quotas, small, sockets, stores
from .stats import machine

__all__ = ["main"]

BENCHMARKS: dict[str, Callable[..., Iterator[str]]] = {
    "memory": memory.run,
    "http": small.run,
    "sockets": sockets.run,
    "stores": stores.run,
    "quotas": quotas.run,
    "instructions": instructions.run,
    "foreign": foreign.run,
    "import": imports.run,
}

# Far more than they take; whatever hangs, ends.
_LIMIT_SECONDS, _QUICK_LIMIT_SECONDS = 2400, 900


def main() -> int:
    """Run what the command line names, everything if it names nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="only see that it works: smaller and shorter")
    parser.add_argument(
        "--profile", action="store_true", help="http, sockets: profile our server instead of comparing it"
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if sys.platform != "linux":
        parser.error("the benchmarks read /proc, which only Linux has")
    for stop in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(stop, lambda number, _: sys.exit(f"stopped: {signal.Signals(number).name}"))
    signal.alarm(_QUICK_LIMIT_SECONDS if options.quick else _LIMIT_SECONDS)
    print(machine())
    proc.pin(proc.processors()[0])
    for name in options.names or BENCHMARKS:
        for text in BENCHMARKS[name](quick=options.quick, profile=options.profile):
            print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
