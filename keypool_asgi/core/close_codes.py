"""Close codes: what may stand in a close frame, and what one side's end means to the other (RFC 6455, section 7.4)."""

from __future__ import annotations

from .sessions import Close

__all__ = [
    "DRAINING",
    "IDLE",
    "REASON_BYTES",
    "TOO_LONG",
    "for_caller",
    "for_upstream",
    "may_be_sent",
    "refusal_code",
    "shortened",
]

REASON_BYTES = 123
"""Bytes of UTF-8 that a reason has room for: a control frame's 125, less the code (RFC 6455, section 5.5)."""

# Registered, and not reserved for what was never on the wire (1004, 1005, 1006, 1015).
_REGISTERED = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})

DRAINING = Close(1012, "This server is shutting down. Connect again.")
"""Service restart: clients may reconnect at once, to another server."""

# Codes from 4000 on are an application's own; the official SDKs show the reason of those that they do not know.
IDLE = Close(4408, "Nothing was sent for too long.")
TOO_LONG = Close(3008, "The session has reached its longest duration.")

# The SDKs for Node take 4001 and 4002 as final, and try again after 1013.
_REFUSED, _OVER_QUOTA, _TRY_LATER = 4001, 4002, 1013


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry this code."""
    return code in _REGISTERED or 3000 <= code <= 4999


def shortened(reason: str) -> str:
    """Cut a reason to what a close frame has room for, between two characters."""
    data = reason.encode("utf-8", "replace")
    return data[:REASON_BYTES].decode("utf-8", "ignore")


def for_caller(close: Close) -> Close:
    """What the caller is told when upstream has ended the session: the same, as far as it can be said on the wire."""
    if close.code == 1005:
        return Close(1000)
    if may_be_sent(close.code):
        return Close(close.code, shortened(close.reason))
    return Close(1011, shortened(close.reason or "The upstream connection broke off."))


def for_upstream(close: Close) -> Close:
    """What upstream is told when the caller has ended the session; a caller that vanished is going away (1001)."""
    if close.code == 1005:
        return Close(1000)
    return Close(close.code, shortened(close.reason)) if may_be_sent(close.code) else Close(1001)


def refusal_code(status: int) -> int:
    """The close code of a refusal that has this HTTP status, for callers who can see only that."""
    if status == 429:
        return _OVER_QUOTA
    return _TRY_LATER if status >= 500 else _REFUSED
