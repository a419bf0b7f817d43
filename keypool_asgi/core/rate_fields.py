"""Response fields that say what is left: ``RateLimit`` and ``RateLimit-Policy``, and the older ``X-RateLimit-*``.

The former two are structured fields (RFC 9651) as of draft-ietf-httpapi-ratelimit-headers-10::

    RateLimit-Policy: "600 requests per minute";q=600;w=60, "20 concurrent requests";q=20;qu="concurrent-requests"
    RateLimit: "600 requests per minute";r=598;t=1, "20 concurrent requests";r=17

The latter three tell of one limit only: the one of which the smallest share is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from .limits import Kind
from .messages import Headers
from .reservations import Standing

__all__ = ["RATE_FIELDS", "rate_fields"]

RATE_FIELDS = frozenset(
    {b"ratelimit", b"ratelimit-policy", b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"}
)
"""Names of these fields, in lower case."""

# The largest integer of a structured field (RFC 9651, section 3.3.1).
_LARGEST = 10**15 - 1

# Requests are what is counted where no unit is named.
_UNITS = {"requests": "", "concurrency": "concurrent-requests", "upload_bytes": "content-bytes"}

# A month has no length of its own.
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}


def rate_fields(standings: Sequence[Standing]) -> Headers:
    """Return the fields that tell of these limits; none where there are none."""
    if not standings:
        return []
    policy = ", ".join([_policy(*one.limit.spec[:3], one.limit.label) for one in standings])
    left = ", ".join([_left(one) for one in standings])
    scarce = min(standings, key=lambda one: one.remaining / one.limit.amount)
    fields = [
        (b"ratelimit-policy", policy.encode("ascii")),
        (b"ratelimit", left.encode("ascii")),
        (b"x-ratelimit-limit", b"%d" % scarce.limit.amount),
        (b"x-ratelimit-remaining", b"%d" % scarce.remaining),
    ]
    if scarce.limit.kind is not Kind.HELD:
        fields.append((b"x-ratelimit-reset", b"%d" % math.ceil(scarce.reset)))
    return fields


# Of texts and numbers, because these are looked up faster than a limit.
@lru_cache(maxsize=4096)
def _policy(unit: str, amount: int, per: str | None, label: str) -> str:
    quantity = _UNITS.get(unit, unit.replace("_", "-"))
    seconds = _SECONDS.get(per or "")
    window = f";w={seconds}" if seconds else ""
    return f"{_name(label)};q={min(amount, _LARGEST)}{window}" + (f';qu="{quantity}"' if quantity else "")


def _left(standing: Standing) -> str:
    reset = "" if standing.limit.kind is Kind.HELD else f";t={math.ceil(standing.reset)}"
    return f"{_name(standing.limit.label)};r={min(standing.remaining, _LARGEST)}{reset}"


@lru_cache(maxsize=4096)
def _name(label: str) -> str:
    """A limit in words, as a string of a structured field: visible ASCII."""
    text = "".join([letter if " " <= letter <= "~" else "?" for letter in label])
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
