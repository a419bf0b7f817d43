"""What the server's side of a session does, one thing after the other: said by a service, or played by a fault."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Act", "Close", "Drop", "Fail", "Hold", "Ping", "Raw", "Say"]

What = Literal["both", "reading", "sending"]


@dataclass(frozen=True, slots=True)
class Say:
    """Send one message.

    Attributes:
        data: text or bytes, which makes a text or a binary message.
        pause: seconds to wait before.
        fragments: in so many frames, or in frames of these sizes (characters of a text, bytes).
        pings: so many pings between two fragments.
        begins: this is the first message of a session that has been admitted.
    """

    data: str | bytes
    pause: float = 0.0
    fragments: int | tuple[int, ...] = 1
    pings: int = 0
    begins: bool = False

    @classmethod
    def json(cls, value: dict[str, Any], *, pause: float = 0.0, begins: bool = False) -> Say:
        """Send a JSON object as text."""
        return cls(json.dumps(value, separators=(",", ":")), pause, begins=begins)


@dataclass(frozen=True, slots=True)
class Fail:
    """End the session with an error in the service's own dialect: a message that tells it, then a close."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Close:
    """Send a close frame and end the connection; a ``code`` of None sends an empty one."""

    code: int | None = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """End the connection without a close frame, with an RST or a FIN."""

    how: Literal["reset", "fin"] = "reset"


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop reading, sending, or both, for ``seconds`` (None: until ``Simulator.release()``)."""

    what: What = "both"
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """Send bytes that need not be frames."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Send pings."""

    count: int = 1
    payload: bytes = b""


Act = Say | Fail | Close | Drop | Hold | Raw | Ping
