"""The named limits of an upstream connection: how long each wait may take, and how much is held in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from keypool_asgi.errors import ConfigurationError

__all__ = ["HIGH_WATER", "MAX_HEAD_BYTES", "MAX_INTERIM_RESPONSES", "Timeouts"]

HIGH_WATER: Final = 256 * 1024
"""Bytes of response body that wait for the caller before reading from upstream is paused."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes that a response head may have; also the limit of a chunked body's trailers and chunk extensions."""

MAX_INTERIM_RESPONSES: Final = 16
"""How many 1xx responses may come before the final one."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for upstream, in seconds.

    The wait for the response head is not here: it belongs to the operation (``RequestHead.patience``).
    """

    connect: float = 5.0
    """Seconds for DNS, TCP and TLS together; and, with ``max_connections``, for a connection to become free."""

    write: float = 30.0
    """Seconds without upstream taking a single byte of a request that is being sent."""

    read: float = 120.0
    """Seconds between two pieces of a response body, while the caller waits for the next one."""

    idle: float = 15.0
    """Seconds that an unused connection is kept for reuse."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (0 < value < math.inf):
                raise ConfigurationError(f"timeouts.{item.name}: {value!r} is not a positive number of seconds")
