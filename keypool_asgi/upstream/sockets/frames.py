"""Frames that go out (RFC 6455, section 5.2): always whole, always masked."""

from __future__ import annotations

from struct import Struct
from typing import Final

from .masks import apply_mask, fresh_masks

__all__ = ["CLOSE", "PING", "PONG", "FrameWriter"]

TEXT: Final = 0x81
BINARY: Final = 0x82
CLOSE: Final = 0x88
PING: Final = 0x89
PONG: Final = 0x8A
"""First bytes of frames: the final bit and the opcode."""

_MASKED: Final = 0x80
_SHORT: Final = Struct("!BB4s").pack
_MEDIUM: Final = Struct("!BBH4s").pack
_LONG: Final = Struct("!BBQ4s").pack


class FrameWriter:
    """Builds frames, each as one piece of bytes for one write. It serves any number of connections of one thread."""

    __slots__ = ("_next_mask",)

    def __init__(self) -> None:
        self._next_mask = fresh_masks().__next__

    def message(self, message: str | bytes) -> bytes:
        """Return a message as one frame, text or binary."""
        if isinstance(message, str):
            return self.frame(TEXT, message.encode())
        return self.frame(BINARY, message)

    def frame(self, first: int, payload: bytes = b"") -> bytes:
        """Return a frame that begins with the byte ``first``."""
        mask = self._next_mask()
        size = len(payload)
        if size < 126:
            head = _SHORT(first, _MASKED | size, mask)
        elif size < 65_536:
            head = _MEDIUM(first, _MASKED | 126, size, mask)
        else:
            head = _LONG(first, _MASKED | 127, size, mask)
        return head + apply_mask(payload, mask)
