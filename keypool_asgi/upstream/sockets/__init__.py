"""WebSocket connections to upstream (RFC 6455): dialed, upgraded, and kept alive on the connections of this package.

::

    client.py      NativeSockets: one connection each, out of ``upstream.connections``
    upgrade.py     the opening handshake on a connection; handshake.py: its rules, without a connection
    socket.py      NativeSocket: messages, pings and the close on a connection
    messages.py    bytes in, messages out; wsproto parses the frames
    frames.py      messages in, bytes out; masks.py: their masks
    closing.py     what may be in a close frame

Importing this package imports no parser: wsproto comes with the first ``open()``, or with ``warm()``.
"""

from __future__ import annotations

from .client import NativeSockets

__all__ = ["NativeSockets"]
