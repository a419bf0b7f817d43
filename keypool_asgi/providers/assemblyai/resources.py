"""AssemblyAI's resources: how they are named, and what its answers say of them (facts on projects and ids)."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from typing import Any
from urllib.parse import unquote, urlsplit

from keypool_asgi.core.ownership import ResourceRules
from keypool_asgi.core.resources import Ref

__all__ = ["RESOURCE_RULES", "UNFINISHED", "describe", "is_known", "refer", "says_gone"]

UNFINISHED = frozenset({"queued", "processing"})
"""Statuses of a transcript that may still change."""

_UPLOAD_HOST = re.compile(r"cdn(\.[a-z0-9-]+)?\.assemblyai\.com\Z")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)
_LOOKUP_ERROR = "transcript lookup error"


def refer(kind: str, text: str) -> Ref:
    """Return one reference for all spellings of a resource.

    Uploads are named by URL; a minted token is a credential, so that only its digest is kept.
    """
    if kind == "upload":
        return Ref(kind, _canonical_url(text))
    if kind == "token":
        return Ref(kind, hashlib.sha256(text.encode()).hexdigest())
    return Ref(kind, text)


def _canonical_url(url: str) -> str:
    """Spell a URL in one way: what URL parsers of any school would take for the same place gives the same text."""
    text = unicodedata.normalize("NFKC", url).replace("\\", "/")
    text = "".join(character for character in text if character > " " and character != "\x7f")
    try:
        parts = urlsplit(unquote(text))
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return text
    default = port in (None, 80, 443)
    return f"{host}{'' if default else f':{port}'}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def is_known(ref: Ref) -> bool:
    """Whether AssemblyAI itself must have made this: an upload on its own host, a cloned voice, any other id."""
    if ref.kind == "upload":
        return bool(_UPLOAD_HOST.match(re.split(r"[/:?]", ref.id, maxsplit=1)[0]))
    if ref.kind == "voice":
        return bool(_UUID.match(ref.id))
    return True


def describe(kind: str, found: dict[str, Any]) -> tuple[str | None, str]:
    """Return a resource's last status, and what a list shows of it, from a JSON object that upstream gave."""
    if kind != "transcript":
        return None, "{}"
    shown = {name: found.get(name) for name in ("completed", "audio_url", "error")}
    status = found.get("status")
    return status if isinstance(status, str) else "queued", json.dumps(shown)


def says_gone(status: int, body: bytes) -> bool:
    """Whether an answer says that the named resource does not exist: a 404, or the 400 that stands for one."""
    if status != 400:
        return status == 404
    try:
        found = json.loads(body)
    except ValueError:
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
