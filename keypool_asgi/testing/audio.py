"""Small valid WAV files for tests and demos, and the length of a WAV file told from its first bytes."""

from __future__ import annotations

import math
import struct
from array import array

__all__ = ["silence_wav", "tone_wav", "wav_seconds"]

_UNKNOWN_SIZE = 0xFFFFFFFF


def silence_wav(seconds: float = 1.0, *, sample_rate: int = 16_000) -> bytes:
    """Return a mono 16-bit WAV file of ``seconds`` of silence; ``sample_rate`` is in Hz."""
    return _wav(bytes(2 * round(seconds * sample_rate)), sample_rate)


def tone_wav(seconds: float = 1.0, *, frequency: float = 440.0, sample_rate: int = 16_000) -> bytes:
    """Return a mono 16-bit WAV file of ``seconds`` of a sine tone; ``frequency`` and ``sample_rate`` are in Hz."""
    step = 2 * math.pi * frequency / sample_rate
    samples = array("h", (round(12_000 * math.sin(step * n)) for n in range(round(seconds * sample_rate))))
    return _wav(samples.tobytes(), sample_rate)


def wav_seconds(start: bytes, size: int) -> float | None:
    """Tell the length in seconds of a WAV file from its first bytes.

    Args:
        start: the first bytes of the file, up to and including the head of its ``data`` chunk.
        size: the size of the whole file in bytes. A ``data`` chunk cannot be longer than what is left of it:
            recorders that stream write a length of zero or of all ones.

    Returns:
        The length, or None when this is not a WAV file that can be read.
    """
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return None
    position, bytes_per_second = 12, 0
    while position + 8 <= len(start):
        name, length = struct.unpack_from("<4sI", start, position)
        position += 8
        if name == b"fmt " and position + 12 <= len(start):
            bytes_per_second = struct.unpack_from("<I", start, position + 8)[0]
        elif name == b"data":
            left = max(size - position, 0)
            audio = left if length in (0, _UNKNOWN_SIZE) else min(length, left)
            return audio / bytes_per_second if bytes_per_second else None
        position += length + length % 2
    return None


def _wav(samples: bytes, sample_rate: int) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples))
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data) + len(samples), b"WAVE") + form + data + samples
