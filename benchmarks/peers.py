"""The proxies to compare with, each in an interpreter that has it: ours, or one that ``KEYPOOL_BENCH_PYTHONS`` names.

LiteLLM brings two hundred packages along, and the others bring what we do without: they are better kept in
environments of their own, ``KEYPOOL_BENCH_PYTHONS=/path/to/one/bin/python:/path/to/another/bin/python``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

__all__ = ["PEERS", "interpreter", "present"]

PEERS = ("fastapi-proxy-lib", "asgiproxy", "litellm")
"""By their names on PyPI, which are their names in ``apps.APPS``."""

_VARIABLE = "KEYPOOL_BENCH_PYTHONS"
_PROGRAM = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


def interpreter(name: str) -> str | None:
    """Return the interpreter that an app runs in; None if none has what it needs."""
    if name not in PEERS:
        return sys.executable
    return next((python for python in _interpreters() if _version(python, name)), None)


def present() -> str:
    """Say which peers take part."""
    found = [f"{name} {_version(python, name)}" for name in PEERS if (python := interpreter(name))]
    missing = [name for name in PEERS if interpreter(name) is None]
    said = f"Peers: {', '.join(found) or 'none'}."
    return f"{said} Not installed here: {', '.join(missing)}." if missing else said


def _interpreters() -> Iterator[str]:
    yield sys.executable
    yield from filter(None, os.environ.get(_VARIABLE, "").split(os.pathsep))


@cache
def _version(python: str, name: str) -> str | None:
    asked = subprocess.run([python, "-c", _PROGRAM, name], capture_output=True, text=True, check=False, timeout=60)
    return asked.stdout.strip() or None
