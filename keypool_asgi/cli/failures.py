"""What commands share: the file that they read, how they fail, and how what they need is missed by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from keypool_asgi.errors import ConfigurationError, KeyPoolError

__all__ = ["DEFAULT_FILE", "Failed", "WrongUse", "need", "wrong_use"]

DEFAULT_FILE = "keypool.toml"
"""The configuration file where none is given."""


class Failed(KeyPoolError):
    """A command could not do what it was asked for; exit code 1."""


class WrongUse(KeyPoolError):
    """A command cannot begin: its arguments or its configuration file are wrong; exit code 2."""


@contextmanager
def wrong_use() -> Iterator[None]:
    """Take a ``ConfigurationError`` of the block for a wrong use."""
    try:
        yield
    except ConfigurationError as error:
        raise WrongUse(str(error)) from error


def need(command: str, *modules: str) -> None:
    """Check that what a command's extra installs is there.

    Raises:
        Failed: something is missing; the message says how to install it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Failed(
            f"{command} needs {', '.join(missing)}, which is not installed: "
            f"{sys.executable} -m pip install 'keypool-asgi[serve]'"
        )
