"""Response fields that say what is left: ``RateLimit`` and ``RateLimit-Policy``, and the older ``X-RateLimit-*``.

The former two are structured fields (RFC 9651) as of draft-ietf-httpapi-ratelimit-headers-10::

    RateLimit-Policy: "600 requests per minute";q=600;w=60, "20 concurrent requests";q=20;qu="concurrent-requests"
    RateLimit: "600 requests per minute";r=598;t=1, "20 concurrent requests";r=17

The latter three tell of one limit only: the one of which the smallest share is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .limits import Denial, Kind, Limit, Slot
from .messages import Headers
from .reservations import Levels, standing

__all__ = ["RATE_FIELDS", "RateFields"]

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


class _Words:
    """What is always the same in the fields about one limit."""

    __slots__ = ("amount", "fits", "form", "limit", "policy", "slot", "windowed")

    def __init__(self, slot: Slot, limit: Limit) -> None:
        name, quantity = _quoted(limit.label), _UNITS.get(limit.unit, limit.unit.replace("_", "-"))
        seconds = _SECONDS.get(limit.per or "")
        policy = f"{name};q={min(limit.amount, _LARGEST)}"
        policy += f";w={seconds}" if seconds else ""
        policy += f';qu="{quantity}"' if quantity else ""
        self.slot = slot
        self.limit = limit
        self.fits = limit.amount <= _LARGEST
        self.windowed = limit.kind is not Kind.HELD
        self.policy = policy.encode("ascii")
        form = name.replace("%", "%%") + (";r=%d;t=%d" if self.windowed else ";r=%d")
        self.form = form.encode("ascii")
        self.amount = (b"x-ratelimit-limit", b"%d" % limit.amount)


_Told = tuple[_Words, int, float]
"""A limit, how many of its units are left, and in how many seconds it is reset."""


class RateFields:
    """Tells of some limits in response fields. All but the numbers is written here once, not for every answer.

    Args:
        limits: what is told of, in this order.
    """

    __slots__ = ("_form", "_policy", "_words")

    def __init__(self, limits: Mapping[Slot, Limit]) -> None:
        self._words = [_Words(slot, limit) for slot, limit in limits.items()]
        self._policy, self._form = _joined(self._words)

    def of(self, levels: Levels, now: int) -> Headers:
        """Return the fields that tell of the limits whose levels are known; none where there are none."""
        told = self._told(levels, now)
        if len(told) == len(self._words):
            return _fields(told, self._policy, self._form) if told else []
        return _fields(told, *_joined([one[0] for one in told])) if told else []

    def of_denied(self, denial: Denial, levels: Levels, now: int) -> Headers:
        """Return the same for a refusal, which tells of the limit that was denied, too: less of it is left than asked.

        What another process has used since its level was seen is not known here.
        """
        charge = denial.charge
        told = {one[0].slot: one for one in self._told(levels, now)}
        fits = told[charge.slot][1] if charge.slot in told else 0
        fits = max(0, min(fits, charge.amount - 1))
        told[charge.slot] = (_Words(charge.slot, charge.limit), fits, denial.retry_after or 0)
        return _fields(list(told.values()), *_joined([one[0] for one in told.values()]))

    def _told(self, levels: Levels, now: int) -> list[_Told]:
        told = []
        for words in self._words:
            level = levels.get(words.slot)
            if level is not None:
                remaining, reset = standing(words.limit, level, now)
                told.append((words, remaining, reset))
        return told


def _fields(told: Sequence[_Told], policy: bytes, form: bytes) -> Headers:
    numbers: list[int] = []
    scarce, least = told[0], math.inf
    for one in told:
        words, remaining, reset = one
        numbers.append(remaining if words.fits else min(remaining, _LARGEST))
        if words.windowed:
            numbers.append(math.ceil(reset))
        share = remaining / words.limit.amount
        if share < least:
            scarce, least = one, share
    words, remaining, reset = scarce
    fields = [
        (b"ratelimit-policy", policy),
        (b"ratelimit", form % tuple(numbers)),
        words.amount,
        (b"x-ratelimit-remaining", b"%d" % remaining),
    ]
    if words.windowed:
        fields.append((b"x-ratelimit-reset", b"%d" % math.ceil(reset)))
    return fields


def _joined(words: Sequence[_Words]) -> tuple[bytes, bytes]:
    """The policies of some limits, and the form that takes their numbers."""
    return b", ".join([one.policy for one in words]), b", ".join([one.form for one in words])


def _quoted(label: str) -> str:
    """A limit in words, as a string of a structured field: visible ASCII."""
    text = "".join([letter if " " <= letter <= "~" else "?" for letter in label])
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
