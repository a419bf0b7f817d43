"""The simulator: a world without I/O (``world``, the products), what reaches it, and a shell of asyncio and h11.

``facade.Simulator`` is what users see. Sessions over WebSocket are in ``sockets``; one begins as an exchange does.
"""

from __future__ import annotations

from .facade import Simulator

__all__ = ["Simulator"]
