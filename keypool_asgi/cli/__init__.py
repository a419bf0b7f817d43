"""The command line: ``keypool``, also ``python -m keypool_asgi``.

A command is a module with ``add_parser(commands)``, which says what it takes, and ``run(given)``, which does it and
returns the exit code. What a command needs is imported in ``run``: ``--help`` and a mistyped option cost nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from keypool_asgi.errors import KeyPoolError

from . import adopt, check, demo, serve, tokens, usage
from .failures import WrongUse

__all__ = ["main"]

_COMMANDS = (serve, check, tokens, usage, adopt, demo)

_INTERRUPTED = 130  # what shells expect of a process that Ctrl-C ended: 128 and the signal's number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 for success, 1 for a failure, 2 for a wrong use."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except KeyPoolError as error:
        print(f"keypool: {error}", file=sys.stderr)
        return 2 if isinstance(error, WrongUse) else 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keypool",
        allow_abbrev=False,
        description="A pool of AssemblyAI keys behind team tokens.",
        epilog="Exit codes: 0 success, 1 a failure or a problem that was found, 2 a wrong use.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('keypool-asgi')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser
