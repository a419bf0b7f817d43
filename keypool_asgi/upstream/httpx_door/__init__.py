"""The only place that imports httpx, both ways through one door.

- ``HttpxClient`` uses any httpx transport as our upstream client: a proxy, a mock, another HTTP stack.
- ``KeyPoolTransport`` offers our native client as an httpx transport.

Transports are called directly. Nothing of ``httpx.AsyncClient`` is wanted here: its cookie jar would be shared between
callers, redirects would be followed with a key, and header fields and decoding would be added.
"""

from __future__ import annotations

from .client import HttpxClient
from .transport import KeyPoolTransport

__all__ = ["HttpxClient", "KeyPoolTransport"]
