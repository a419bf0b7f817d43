"""When an attempt may be repeated on another key, and what the caller gets when it may not (invariant I6). Pure."""

from __future__ import annotations

from enum import Enum

from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.verdicts import Fault, Verdict

__all__ = ["DELIVER", "Next", "after_answer", "after_failure", "is_borne_out", "without_key"]


class Next(Enum):
    """What becomes of an attempt's answer."""

    #: The answer goes to the caller.
    DELIVER = "deliver"
    #: Another attempt follows; the answer is forgotten unless no key is left.
    REPEAT = "repeat"
    #: The caller gets NO_AVAILABLE_KEYS: the answer is about the operator's account, not the caller's business.
    REFUSE = "refuse"


DELIVER = Next.DELIVER
"""What nearly always becomes of it. Every request asks, and looking a member up in its enum costs as much as a call."""


def after_answer(verdict: Verdict, *, repeatable: bool) -> Next:
    """Decide about an answer of upstream's, of which nothing has reached the caller.

    Args:
        verdict: what the answer says about its key.
        repeatable: whether the whole of what was read from the caller is still there to be sent again.
    """
    if not verdict.blames_key:
        return DELIVER
    if repeatable:
        return Next.REPEAT
    return without_key(verdict)


def without_key(verdict: Verdict) -> Next:
    """Decide about an answer that cannot be repeated because no other key, or no whole body, is there.

    Throttling passes through: the caller can act on it. Credentials and funds are the operator's.
    """
    return Next.REFUSE if verdict.fault in (Fault.REJECTED, Fault.EXHAUSTED) else Next.DELIVER


def is_borne_out(verdict: Verdict, blamed: UpstreamKey, served: UpstreamKey) -> bool:
    """Whether a doubtful verdict is believed: another key, for a fault of an account another account's, then served.

    An answer that every key gets is the request's own, or upstream's bad moment: it takes no key out of service.
    """
    if verdict.fault is Fault.REJECTED:
        return blamed.id != served.id
    return blamed.account != served.account


def after_failure(*, sent: bool, repeatable: bool, retries_left: int) -> Next:
    """Decide about a failed connection.

    Args:
        sent: whether a byte of the request may have reached upstream; then it may have acted on it.
        repeatable: as above.
        retries_left: of the budget for retries, which is not the walk through the pool.
    """
    return Next.REPEAT if not sent and repeatable and retries_left > 0 else Next.DELIVER
