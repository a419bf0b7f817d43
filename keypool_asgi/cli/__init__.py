"""The command line: ``keypool``, also ``python -m keypool_asgi``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from keypool_asgi.errors import KeyPoolError

from . import adopt

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 for success, 1 for a failure, 2 for a wrong use."""
    parser = argparse.ArgumentParser(prog="keypool", description="A pool of AssemblyAI keys behind team tokens.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    adopt.add_to(commands)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except KeyPoolError as error:
        print(f"keypool: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
