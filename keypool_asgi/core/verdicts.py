"""Verdicts: what the outcome of an attempt says about the key that served it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Fault", "Verdict"]


class Fault(Enum):
    """What was wrong with the key, if anything."""

    #: The key served the request.
    NONE = "good"
    #: The account is over a rate limit; it cools down.
    THROTTLED = "throttled"
    #: The account has no funds.
    EXHAUSTED = "exhausted"
    #: The key itself is not accepted.
    REJECTED = "rejected"
    #: Whatever went wrong (5xx, network, caller gone) says nothing about the key.
    UNRELATED = "unrelated"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt says about its key.

    Attributes:
        fault: what was wrong with the key.
        retry_after: seconds until upstream says to come back, or None when it said nothing.
        certain: False for an answer that may be the request's own fault as well as the account's (a bare 403).
            It is believed only if another account, or for a refused key another key, then serves the same request.
        lasting: False for a limit on this kind of request alone: another account may serve it, but nothing cools down.
    """

    fault: Fault
    retry_after: float | None = None
    certain: bool = True
    lasting: bool = True

    @property
    def blames_key(self) -> bool:
        """Whether another key might serve the same request."""
        return self.fault not in _BLAMELESS


_BLAMELESS = (Fault.NONE, Fault.UNRELATED)
