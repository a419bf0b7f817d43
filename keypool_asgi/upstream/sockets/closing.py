"""What a close frame may say (RFC 6455, sections 5.5.1 and 7.4). Pure."""

from __future__ import annotations

from typing import Final

from keypool_asgi.core.sessions import Close

__all__ = ["NO_CODE", "ViolationError", "decode_close", "encode_close", "is_sendable"]

PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
INVALID_PAYLOAD: Final = 1007
TOO_BIG: Final = 1009

MAX_REASON_BYTES: Final = 123
"""Bytes of a reason: a control frame has 125 at most, and the code takes two of them."""


class ViolationError(Exception):
    """What upstream sent breaks RFC 6455, or is over a limit.

    Attributes:
        code: what the connection is to be failed with (section 7.1.7).
        what: what was wrong, in words that quote nothing of what was sent.
    """

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what


def is_sendable(code: int) -> bool:
    """Whether a code may be in a close frame: not reserved, and registered or free for use (section 7.4.2)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def encode_close(close: Close) -> bytes:
    """Return the payload of a close frame, empty if the code must not be sent."""
    if not is_sendable(close.code):
        return b""
    reason = close.reason.encode("utf-8", "replace")
    if len(reason) > MAX_REASON_BYTES:  # cut between two characters
        reason = reason[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return close.code.to_bytes(2, "big") + reason


def decode_close(payload: bytes) -> Close:
    """Read the payload of a close frame.

    Raises:
        ViolationError: it is one byte long, or the code or the reason must not be sent.
    """
    if not payload:
        return Close(NO_CODE)
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_sendable(code):
        raise ViolationError(PROTOCOL_ERROR, "a close frame without a valid code")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ViolationError(INVALID_PAYLOAD, "the reason of a close frame is not UTF-8") from None
