"""Request bodies summed up while they stream by: nothing is held but their beginning."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from .values import Body, Part

__all__ = ["BodySummary", "Multipart", "Scanner"]

_BOUNDARY = re.compile(rb'boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="([^"]*)"', re.IGNORECASE)


class Scanner:
    """Finds needles in bytes that come in pieces, also where a needle lies across a border."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._missing = {needle for needle in needles if needle}
        self._overlap = max((len(needle) - 1 for needle in self._missing), default=0)
        self._tail = b""
        self.found: set[bytes] = set()

    def feed(self, data: bytes) -> None:
        """Search the next piece."""
        if not self._missing:
            return
        window = self._tail + data
        hits = {needle for needle in self._missing if needle in window}
        self.found |= hits
        self._missing -= hits
        self._tail = window[-self._overlap :] if self._overlap else b""


class Multipart:
    """Reads a ``multipart/form-data`` body (RFC 7578) piece by piece: names, order and sizes of its parts.

    ``parts`` holds the parts that have ended. ``ended`` is True once the closing boundary has come.
    """

    def __init__(self, boundary: bytes, keep: int) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._keep = keep
        self._buffer = bytearray(b"\r\n")  # the first boundary has no line end before it
        self._part: tuple[str, str] | None = None
        self._start = bytearray()
        self._size = 0
        self.parts: list[Part] = []
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Read the next piece."""
        self._buffer += data
        while not self.ended and self._step():
            pass

    def _step(self) -> bool:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            # The end of the buffer may be the beginning of a delimiter.
            self._content(max(0, len(self._buffer) - len(self._delimiter)))
            return False
        head = at + len(self._delimiter)
        after = bytes(self._buffer[head : head + 2])
        end = self._buffer.find(b"\r\n\r\n", head)
        if after == b"--" or end >= 0:
            self._content(at)
            self._end_part()
            del self._buffer[: len(self._delimiter)]
            self.ended = after == b"--"
            if not self.ended:
                self._begin_part(end - head)
            return True
        return False

    def _content(self, size: int) -> None:
        if self._part is not None:
            self._start += self._buffer[: min(size, self._keep - len(self._start))]
            self._size += size
        del self._buffer[:size]

    def _begin_part(self, length: int) -> None:
        fields = bytes(self._buffer[:length])
        del self._buffer[: length + 4]
        name = _NAME.search(fields)
        kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", fields)
        self._part = (
            name.group(1).decode("utf-8", "replace") if name else "",
            kind.group(1).decode("latin-1").strip().lower() if kind else "",
        )

    def _end_part(self) -> None:
        if self._part is not None:
            name, kind = self._part
            self.parts.append(Part(name, kind, self._size, bytes(self._start)))
        self._part, self._size = None, 0
        self._start.clear()


class BodySummary:
    """Sums up one request body.

    Args:
        content_type: the request's ``Content-Type``; tells whether the body has parts.
        keep: how many bytes of its beginning are held.
        needles: what to search the body for.
    """

    def __init__(self, content_type: bytes, *, keep: int, needles: Iterable[bytes] = ()) -> None:
        self._hash = hashlib.sha256()
        self._keep = keep
        self._start = bytearray()
        self._parts: Multipart | None = None
        boundary = _BOUNDARY.search(content_type)
        if content_type.lower().startswith(b"multipart/form-data") and boundary:
            self._parts = Multipart(boundary.group(1), keep)
        self.scanner = Scanner(needles)
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        self.size += len(data)
        self._hash.update(data)
        if len(self._start) < self._keep:
            self._start += data[: self._keep - len(self._start)]
        if self._parts is not None:
            self._parts.feed(data)
        self.scanner.feed(data)

    def start(self, size: int) -> bytes:
        """Return the first ``size`` bytes, as far as they have come."""
        return bytes(self._start[:size])

    def body(self) -> Body:
        """Return the sum of the complete body. A multipart body that was not ended has no parts."""
        parts = None
        if self._parts is not None:
            parts = tuple(self._parts.parts) if self._parts.ended else ()
        return Body(self.size, self._hash.hexdigest(), bytes(self._start), parts)
