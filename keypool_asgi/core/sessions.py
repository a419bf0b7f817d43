"""WebSocket sessions as values: how they end, what they may take, and what a provider knows about its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from keypool_asgi.errors import ConfigurationError

from .verdicts import Verdict

__all__ = ["Close", "SessionLimits", "SessionMeter", "SessionRules"]


@dataclass(frozen=True, slots=True)
class Close:
    """How a WebSocket connection ends (RFC 6455, section 7.1).

    Attributes:
        code: status code of the close frame; 1005 when it had none, 1006 when there was no close frame at all.
        reason: its text, at most 123 bytes of UTF-8 on the wire.
    """

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a WebSocket session may take. Seconds and bytes."""

    opening_seconds: float = 8.0
    """Seconds from the upgrade until upstream serves, over all keys that are tried."""

    attempt_seconds: float = 5.0
    """Seconds for one key: TCP, TLS, upgrade, and the first message where upstream speaks first."""

    idle_seconds: float = 300.0
    """Seconds without any message from the caller before the session is ended: an idle session costs money."""

    session_seconds: float = 10_800.0
    """Seconds that a session may last; AssemblyAI's own limit is the default."""

    closing_seconds: float = 5.0
    """Seconds that upstream has for its closing figures after the end message."""

    ping_seconds: float = 20.0
    """Seconds of silence from upstream before it is pinged, and then again before the connection counts as broken."""

    message_bytes: int = 1024**2
    """Longest message, either way. AssemblyAI takes 128 KiB."""

    buffered_bytes: int = 256 * 1024
    """Bytes of messages from upstream that may wait for a slow caller before reading from upstream is paused."""

    buffered_messages: int = 64
    """Messages from upstream that may wait for a slow caller before reading from upstream is paused."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (0 < value < math.inf):
                raise ConfigurationError(f"sessions.{item.name}: {value!r} is not a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What a provider knows about the sessions of one service.

    Attributes:
        speaks_first: whether upstream sends a message before the caller's first one; until it has, a session is not
            known to be served.
        end_message: what ends a session in order, as the text of a message.
        ends: types of a caller's message that end the session in order.
        closing: types of upstream's last message, which carries the closing figures.
        judge: first message, or close, of a session that has not been served to what it says about the key; None for
            a message that is part of a served session.
        session_figure: member of the closing message with the session's length, in seconds.
        audio_figure: member of the closing message with the audio's length, in seconds; None where there is none.
    """

    speaks_first: bool
    end_message: str
    ends: frozenset[str]
    closing: frozenset[str]
    judge: Callable[[str | bytes | Close], Verdict | None]
    session_figure: str = "session_duration_seconds"
    audio_figure: str | None = "audio_duration_seconds"


@dataclass(slots=True)
class SessionMeter:
    """What a session has used so far. Monotonic seconds, bytes and messages.

    Attributes:
        opened: when upstream had upgraded: from then on it charges.
        closed: when the upstream connection had ended.
        bytes_up: bytes of the caller's binary messages that were passed on: audio.
        messages_up: the caller's messages that were passed on.
        messages_down: upstream's messages that were passed on.
        figures: upstream's own closing figures, by member, once they have come.
    """

    opened: float | None = None
    closed: float | None = None
    bytes_up: int = 0
    messages_up: int = 0
    messages_down: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
