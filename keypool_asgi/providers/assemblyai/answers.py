"""What AssemblyAI's answers say about the key they were made with.

Status alone cannot say: no funds is a 400, throttling may be a 403, and so may be a request's own fault.
A text counts only where AssemblyAI's error body holds it, and only from its beginning: a caller's words, echoed in an
error about something else, must not be able to take a key out of service.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from keypool_asgi.core.messages import Headers
from keypool_asgi.core.operations import Operation
from keypool_asgi.core.ownership import decoded_json
from keypool_asgi.core.verdicts import Fault, Verdict

__all__ = ["SUSPICIOUS", "judge"]

SUSPICIOUS = frozenset({400, 401, 402, 403, 429})
"""Statuses whose body is looked at before the key is judged."""

_GOOD = Verdict(Fault.NONE)
_UNRELATED = Verdict(Fault.UNRELATED)
_BAD_KEY = ("authentication error, api token missing/invalid",)
_NO_FUNDS = ("your current account balance is negative. please top up",)
_THROTTLED = ("too many requests", "rate limit", "request rate")
_REQUEST_IS_FORBIDDEN = ("cannot access uploaded file",)


def judge(operation: Operation, status: int, headers: Headers, body: bytes, now: float) -> Verdict:  # noqa: ARG001
    """Judge a key by an answer.

    Args:
        operation: what was asked.
        status: HTTP status.
        headers: response fields.
        body: the beginning of the body, only for ``SUSPICIOUS`` statuses.
        now: Unix time, for a ``Retry-After`` that is a date.
    """
    if status >= 500:
        return _UNRELATED
    if status == 401:
        # Said in another way it may be about the request, or upstream's bad moment.
        return Verdict(Fault.REJECTED, certain=_says(headers, body, _BAD_KEY))
    if status == 429:
        # A limit that is one model's says nothing about the account's other work.
        return Verdict(Fault.THROTTLED, retry_after(headers, now), lasting=not _names_model(headers))
    if status == 402 or (status in (400, 403) and _says(headers, body, _NO_FUNDS)):
        return Verdict(Fault.EXHAUSTED)
    if status == 403:
        return _judge_forbidden(headers, body, now)
    return _GOOD


def _judge_forbidden(headers: Headers, body: bytes, now: float) -> Verdict:
    """Tell a 403 that is the rate limit of 20,000 requests in 5 minutes from one that is the request's own fault."""
    if _says(headers, body, _REQUEST_IS_FORBIDDEN):
        return _GOOD
    after = retry_after(headers, now)
    return Verdict(Fault.THROTTLED, after, certain=after is not None or _says(headers, body, _THROTTLED))


def _names_model(headers: Headers) -> bool:
    """Whether a limit is one model's: the LLM Gateway has one for each."""
    return any(name.lower() == b"x-ratelimit-model" for name, _ in headers)


def _says(headers: Headers, body: bytes, beginnings: tuple[str, ...]) -> bool:
    """Whether the error text of a JSON body starts with one of these words."""
    fields = decoded_json(headers, body) or {}
    text = fields.get("error") or fields.get("message")
    return isinstance(text, str) and text.lower().startswith(beginnings)


def retry_after(headers: Headers, now: float) -> float | None:
    """Read ``Retry-After`` in either form, seconds or a date (RFC 9110, section 10.2.3); None when it is not there."""
    for name, value in headers:
        if name.lower() == b"retry-after":
            return _seconds(value.decode("latin-1").strip(), now)
    return None


def _seconds(value: str, now: float) -> float | None:
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:  # "-0000" means UTC of an unknown place (RFC 5322, section 3.3)
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
