"""Audio that is still coming, and its words: one for every 400 ms, the same for the same audio however it is cut."""

from __future__ import annotations

import zlib
from typing import Any

from keypool_asgi.testing.simulator import speech

__all__ = ["WIDTHS", "Ear"]

WIDTHS = {"pcm_s16le": 2, "pcm_mulaw": 1}
"""Bytes of one sample, of the encodings whose messages are measured."""

_WORD_MS = 400
_OPUS_PACKET_MS, _COMPRESSED_BYTES_PER_MS = 20, 4  # believable: 32 kbit/s


class Ear:
    """Listens to audio.

    Attributes:
        milliseconds: of the audio that came.
    """

    def __init__(self, encoding: str, sample_rate: int) -> None:
        self._packets = encoding == "opus"
        width = WIDTHS.get(encoding)
        self._per_ms = _COMPRESSED_BYTES_PER_MS if width is None else width * sample_rate / 1000
        self._units = 0  # of the current word: bytes, or packets
        self._heard = 0
        self._crc = 0
        self._total = 0

    @property
    def milliseconds(self) -> float:
        """How much audio came."""
        return self._total * _OPUS_PACKET_MS if self._packets else self._total / self._per_ms

    def measure(self, data: bytes) -> float:
        """Return the length of a message in milliseconds."""
        return _OPUS_PACKET_MS if self._packets else len(data) / self._per_ms

    def hear(self, data: bytes) -> list[dict[str, Any]]:
        """Take a message; returns the words that it completes."""
        if self._packets:
            self._total += 1
            return self._take(data, 1, _WORD_MS // _OPUS_PACKET_MS)
        self._total += len(data)
        whole, words = int(self._per_ms * _WORD_MS), []
        while data:
            piece, data = data[: whole - self._units], data[whole - self._units :]
            words += self._take(piece, len(piece), whole)
        return words

    def _take(self, piece: bytes, units: int, whole: int) -> list[dict[str, Any]]:
        self._crc = zlib.crc32(piece, self._crc)
        self._units += units
        if self._units < whole:
            return []
        number, seed = self._heard, self._crc
        self._heard, self._units, self._crc = number + 1, 0, 0
        start = number * _WORD_MS
        confidence = round(0.85 + seed % 1000 / 7000, 5)
        return [
            {"start": start, "end": start + 360, "confidence": confidence, "text": speech.spoken(number, seed)},
        ]
