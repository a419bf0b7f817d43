"""Connections to upstream: our own HTTP/1.1 client, and the one door to httpx.

Importing this package imports neither httpx nor a parser; ``httpx_door`` is imported by whoever needs it.
"""

from __future__ import annotations

from .client import NativeClient
from .settings import Timeouts

__all__ = ["NativeClient", "Timeouts"]
