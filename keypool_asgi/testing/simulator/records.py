"""What reached the simulator, so that a test can look for what should not have."""

from __future__ import annotations

import copy
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes

from .faults import Fault
from .sockets.faults import SocketFault
from .values import Headers

__all__ = ["Outcome", "Recorded", "Recorder"]

Outcome = Literal["open", "answered", "cut", "abandoned", "malformed"]


@dataclass(slots=True)
class Recorded:
    """One request as it came over the wire.

    Attributes:
        number: counting from 1.
        connection: the number of its TCP connection, counting from 1.
        service: ``api``, ``streaming``, ``llm_gateway``, ``sync``, ``dictation``, ``agents`` or ``tts``.
        region: ``us`` or ``eu``.
        method: as it came.
        target: path and query as they came.
        path: the decoded path without query and without the segments that name region and service.
        headers: raw fields in the order in which they came, names in their own case.
        key: the secret that it presented, whether it is valid or not; None without one.
        project: the project of that key, if it is known.
        started: Unix time in seconds.
        body: the beginning of the body; of a session, all that the client sent, message after message.
        body_size: how many bytes of the body came.
        sha256: of the whole body, once it is complete.
        trailers: fields after a chunked body.
        complete: whether the whole request came.
        status: of the response, once it was begun.
        session: the id of the session over a WebSocket that it began.
        outcome: ``open`` while it is in progress; ``answered``; ``cut`` by a fault; ``abandoned`` by the client
            before the response was complete (or before the request was); ``malformed``.
        fault: the fault that was played, if any.
        found: watched needles that are in the body.
    """

    number: int
    connection: int
    service: str
    region: str
    method: str
    target: str
    path: str
    headers: Headers
    key: str | None = field(repr=False)
    project: str | None
    started: float
    body: bytes = field(default=b"", repr=False)
    body_size: int = 0
    sha256: str | None = None
    trailers: Headers = field(default_factory=list)
    complete: bool = False
    status: int | None = None
    session: str | None = None
    outcome: Outcome = "open"
    fault: Fault | SocketFault | None = field(default=None, repr=False)
    watched: frozenset[bytes] = field(default=frozenset(), repr=False)
    found: frozenset[bytes] = field(default=frozenset(), repr=False)

    def header(self, name: str) -> str | None:
        """Return the first value of a field, or None; the case of ``name`` does not matter."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def contains(self, needle: bytes) -> bool:
        """Tell whether the bytes of this request contain ``needle``, also percent-encoded in its target.

        Raises:
            LookupError: it cannot be told, because the body is longer than what was kept of it, and the needle
                was not watched when it came.
        """
        target = self.target.encode("latin-1")
        pieces = [target, unquote_to_bytes(target), self.method.encode("latin-1"), self.body]
        pieces += [name + b": " + value for name, value in [*self.headers, *self.trailers]]
        if any(needle in piece for piece in pieces) or needle in self.found:
            return True
        if self.body_size > len(self.body) and needle not in self.watched:
            raise LookupError(f"request {self.number} has a long body: call watch() with the needle before it comes")
        return False


class Recorder:
    """Keeps the records. Its methods may be called from any thread."""

    def __init__(self, keep: int | None) -> None:
        self._lock = threading.Lock()
        self._records: deque[Recorded] = deque(maxlen=keep)
        self._open: dict[int, Recorded] = {}
        self._count = self._connections = 0
        self._watched: frozenset[bytes] = frozenset()
        self._violations: list[str] = []

    def connection(self) -> int:
        """Number a new connection."""
        with self._lock:
            self._connections += 1
            return self._connections

    def next_number(self) -> int:
        """Number a new request."""
        with self._lock:
            self._count += 1
            return self._count

    def add(self, record: Recorded) -> None:
        """Keep a new record, which is in progress until ``close``."""
        with self._lock:
            self._records.append(record)
            self._open[record.number] = record

    def close(self, record: Recorded, outcome: Outcome) -> None:
        """Say how a request ended. The first answer stays, unless it turns out that the client went away."""
        with self._lock:
            if record.outcome in ("open", "answered"):
                record.outcome = outcome
            self._open.pop(record.number, None)

    def violation(self, sentence: str) -> None:
        """Note that a client did what no sane proxy does."""
        with self._lock:
            self._violations.append(sentence)

    def watch(self, needle: bytes) -> None:
        """Search the bodies of all requests from now on for ``needle``."""
        with self._lock:
            self._watched |= {needle}

    def forget(self) -> None:
        """Drop every record and violation; the numbers go on."""
        with self._lock:
            self._records.clear()
            self._violations.clear()

    @property
    def watched(self) -> frozenset[bytes]:
        """What bodies are searched for."""
        return self._watched

    @property
    def requests(self) -> list[Recorded]:
        """A copy of the records, oldest first."""
        with self._lock:
            return [copy.copy(record) for record in self._records]

    @property
    def violations(self) -> list[str]:
        """A copy of the violations, oldest first."""
        with self._lock:
            return list(self._violations)

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._connections

    @property
    def open(self) -> int:
        """How many requests are in progress."""
        with self._lock:
            return len(self._open)
