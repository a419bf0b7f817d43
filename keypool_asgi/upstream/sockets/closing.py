"""What a close frame may say (RFC 6455, sections 5.5.1 and 7.4). Pure."""

from __future__ import annotations

from typing import Final

from keypool_asgi.core.close_codes import may_be_sent, shortened
from keypool_asgi.core.sessions import Close

__all__ = ["NO_CODE", "ViolationError", "decode_close", "encode_close"]

PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
INVALID_PAYLOAD: Final = 1007
TOO_BIG: Final = 1009


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


def encode_close(close: Close) -> bytes:
    """Return the payload of a close frame, empty if the code must not be sent."""
    if not may_be_sent(close.code):
        return b""
    return close.code.to_bytes(2, "big") + shortened(close.reason).encode()


def decode_close(payload: bytes) -> Close:
    """Read the payload of a close frame.

    Raises:
        ViolationError: it is one byte long, or the code or the reason must not be sent.
    """
    if not payload:
        return Close(NO_CODE)
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not may_be_sent(code):
        raise ViolationError(PROTOCOL_ERROR, "a close frame without a valid code")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ViolationError(INVALID_PAYLOAD, "the reason of a close frame is not UTF-8") from None
