"""Recordings in the forms in which an SDK may be given them."""

from __future__ import annotations

import io

__all__ = ["Unsized"]


class Unsized(io.RawIOBase):
    """A pipe-like recording: it can be read, but not measured."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, target) -> int:
        return self._data.readinto(target)

    def fileno(self) -> int:
        raise OSError("no descriptor")
