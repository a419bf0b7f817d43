"""AssemblyAI's resources: how they are named, and what its answers say of them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any
from urllib.parse import unquote

from keypool_asgi.core.ownership import ResourceRules
from keypool_asgi.core.resources import Ref

__all__ = ["RESOURCE_RULES", "UNFINISHED", "describe", "is_known", "refer", "says_gone"]

UNFINISHED = frozenset({"queued", "processing"})
"""Statuses of a transcript that may still change."""

# A host such as cdn.assemblyai.com or cdn.eu.assemblyai.com, and a UUID, without their punctuation.
_UPLOAD_HOST = re.compile(r"cdn[a-z0-9]*assemblyaicom")
# Voices of AssemblyAI's own library have UUIDs, too. LiveKit's plugin speaks with this one when nobody chooses.
_LIBRARY_VOICES = frozenset({"987db62e-a2c2-569a-9c4d-82460cdea1bd"})
_UUID_DIGITS = re.compile(r"[0-9a-f]{32}")
_MOST_SHOWN = 2048
_LOOKUP_ERROR = "transcript lookup error"


def refer(kind: str, text: str) -> Ref:
    """Name a resource by the text that AssemblyAI gave; of a minted token, which is a credential, only the digest."""
    if kind == "token":
        return Ref(kind, hashlib.sha256(text.encode()).hexdigest())
    return Ref(kind, text)


def is_known(ref: Ref) -> bool:
    """Whether AssemblyAI itself must have made this: an upload on its own host, a cloned voice, any other id.

    URL parsers disagree about disguises (user parts, backslashes, encoded delimiters, full-width dots). So whatever
    could be read as the upload host by anyone counts as an upload, and is refused unless it is an own one's very text.
    """
    if ref.kind == "upload":
        return bool(_UPLOAD_HOST.search(_squeezed(ref.id)))
    if ref.kind == "voice":
        return ref.id not in _LIBRARY_VOICES and bool(_UUID_DIGITS.search(_squeezed(ref.id)))
    return True


def _squeezed(text: str) -> str:
    """Letters and digits alone, as the most lenient parser would read them."""
    return re.sub(r"[^a-z0-9]", "", unquote(unicodedata.normalize("NFKC", unquote(text))).lower())


def describe(kind: str, found: dict[str, Any]) -> tuple[str | None, str]:
    """Return a resource's last status, and what a list shows of it, from a JSON object that upstream gave."""
    if kind != "transcript":
        return None, "{}"
    shown = {name: _shown(found.get(name)) for name in ("completed", "audio_url", "error")}
    status = found.get("status")
    return status if isinstance(status, str) else "queued", json.dumps(shown)


def _shown(value: Any) -> Any:
    """What is kept of a member: the callers' own texts in it must not fill the store."""
    return value[:_MOST_SHOWN] if isinstance(value, str) else None


def says_gone(status: int, body: bytes) -> bool:
    """Whether an answer says that the named resource does not exist: a 404, or the 400 that stands for one."""
    if status != 400:
        return status == 404
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    text = found.get("error") if isinstance(found, dict) else None
    return isinstance(text, str) and text.lower().startswith(_LOOKUP_ERROR)


RESOURCE_RULES = ResourceRules(
    refer=refer,
    is_known=is_known,
    describe=describe,
    says_gone=says_gone,
    safe_reads={
        "transcript": ("transcripts.get", "transcript_id"),
        "agent": ("agents.get", "agent_id"),
        "webhook_subscription": ("webhook_subscriptions.get", "subscription_id"),
    },
)
