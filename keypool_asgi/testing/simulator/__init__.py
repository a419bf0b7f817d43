"""The simulator: a world without I/O (``world``, the products), what reaches it, and a shell of asyncio and h11.

``facade.Simulator`` is what users see. Streams over WebSocket will be a second kind of exchange beside ``exchange``.
"""

from __future__ import annotations

from .facade import Simulator

__all__ = ["Simulator"]
