"""The audio that services answer with: 80 ms of a tone, over and over."""

from __future__ import annotations

import base64
import functools

from keypool_asgi.testing.audio import tone_wav

__all__ = ["PIECE_MS", "pieces", "tone"]

PIECE_MS = 80
_MS_PER_CHARACTER = 60


def pieces(text: str) -> int:
    """Return how many pieces of audio it takes to say a text."""
    return -(-len(text) * _MS_PER_CHARACTER // PIECE_MS)


@functools.cache
def tone(sample_rate: int, width: int) -> str:
    """Return a piece of audio, in base64; ``width`` is bytes of one sample."""
    samples = tone_wav(PIECE_MS / 1000, sample_rate=sample_rate)[44:]
    return base64.b64encode(samples[: width * sample_rate * PIECE_MS // 1000]).decode()
