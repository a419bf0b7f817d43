"""AssemblyAI's WebSocket sessions: how they begin and end, and how a key is refused in band.

The upgrade succeeds even with a bad key: what is wrong is said by the first message, an ``Error``, and by the close
frame that follows it. As with HTTP a text counts only from its beginning.
"""

from __future__ import annotations

import json
import re

from keypool_asgi.core.sessions import Close, SessionRules
from keypool_asgi.core.verdicts import Fault, Verdict

__all__ = ["SESSION_RULES", "judge_session"]

_UNRELATED = Verdict(Fault.UNRELATED)
_THROTTLED = Verdict(Fault.THROTTLED)
_UNAUTHORIZED = "unauthorized connection:"

# What follows "Unauthorized Connection:", or stands alone.
_TOO_MANY = ("too many",)
_NO_FUNDS = ("insufficient", "your current account balance is negative", "account balance")
_BAD_KEY = (
    "missing authorization",
    "invalid api key",
    "missing/invalid",
    "invalid authorization",
    "account is disabled",
)

# As words of their own: "keyterms_prompt" and "max_tokens" are the caller's.
_OF_CREDENTIALS = re.compile(r"\b(?:key|token|authorization|credentials?)\b|account is disabled")

# Upstream could not serve, whatever the key: 1011 and 3005 are server errors, 1006 is a connection that broke.
_FAILURES = frozenset({1006, 1011, 1012, 1013, 3005})


def judge_session(first: str | bytes | Close) -> Verdict | None:
    """Judge a key by the first thing that a session brings; None when that is part of a session that is served.

    An error about what the caller asked for (a bad parameter, audio that is too fast) is the caller's to see.
    """
    if isinstance(first, Close):
        return _judge(first.code, first.reason)
    found = _error(first) if isinstance(first, str) else None
    if found is None:
        return None
    code = found.get("error_code", found.get("code"))
    text = str(found.get("error", found.get("message")))
    if not isinstance(code, int):
        # Another name counts only by a text that begins as refusals do.
        unnamed = 1008 if text.lower().startswith(_UNAUTHORIZED) else 0
        code = _AGENT_CODES.get(str(code).lower(), unnamed)
    return _judge(code, text)


# Voice agents name their errors instead of numbering them.
_AGENT_CODES = {"unauthorized": 1008, "forbidden": 1008, "internal_error": 1011, "server_error": 1011}


def _error(message: str) -> dict[str, object] | None:
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    says_so = found.get("type") in ("Error", "session.error") or ("error" in found and "type" not in found)
    return found if says_so else None


def _judge(code: int, reason: str) -> Verdict | None:
    if code in _FAILURES:
        return _UNRELATED
    if code == 3009:
        return _THROTTLED
    if code != 1008:
        return None
    text = reason.lower().removeprefix(_UNAUTHORIZED).strip()
    if text.startswith(_TOO_MANY):
        return _THROTTLED
    if text.startswith(_NO_FUNDS):
        return Verdict(Fault.EXHAUSTED)
    # Said in another way it may be about what was asked for: believed only if another key then serves the same. Where
    # the words do not even speak of a credential, a key may be good and its plan too small: it is not taken out then.
    return Verdict(Fault.REJECTED, certain=text.startswith(_BAD_KEY), lasting=bool(_OF_CREDENTIALS.search(text)))


_STREAMING = SessionRules(
    speaks_first=True,
    end_message='{"type":"Terminate"}',
    ends=frozenset({"Terminate"}),
    closing=frozenset({"Termination"}),
    judge=judge_session,
)

_AGENTS = SessionRules(
    speaks_first=False,
    end_message='{"type":"session.end"}',
    ends=frozenset({"session.end"}),
    closing=frozenset({"session.ended"}),
    judge=judge_session,
)

SESSION_RULES = {"streaming": _STREAMING, "tts": _STREAMING, "agents": _AGENTS}
"""Service to its sessions."""
