"""The pool's configuration from a TOML file: what ``KeyPool.from_config`` and the command line build a stack of.

::

    keypool.toml ─> file.load ─> Configuration(keys, teams, settings, server) ─> file.build ─> KeyPool
                        │
                        └ kinds: what a value may be; credentials: secrets by reference; tables: what each table means

``examples/keypool.toml`` has every setting.
"""

from __future__ import annotations

from .file import Configuration, FileKeys, build, load
from .kinds import Place
from .server import ServerSettings, check_server

__all__ = ["Configuration", "FileKeys", "Place", "ServerSettings", "build", "check_server", "load"]
