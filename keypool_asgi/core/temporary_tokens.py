"""Temporary tokens: what one stands for, sealed so that only the token itself, or only our secret, opens it.

There are two kinds. One that AssemblyAI made is recorded beside its digest; what it stands for is sealed there under
the token itself, so that a stolen database tells nothing about team tokens. One that we made carries what it stands for
within itself, sealed under a secret of the operator's, and is recorded nowhere.

Both hold the *team token*, because teams are found by their tokens alone: so a team that is revoked or has expired
takes its temporary tokens with it at once. Sealing is encrypt-then-MAC with SHAKE-256 as the key stream and
HMAC-SHA-256 as the tag, under keys that are derived for one purpose each.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import shake_256

from keypool_asgi.errors import BadRequest, ConfigurationError

from .keys import Secret
from .tokens import MAX_TOKEN_BYTES

__all__ = ["NONCE_BYTES", "Grant", "TokenIssuer", "open_grant", "seal_grant"]

NONCE_BYTES = 16

_TAG_BYTES = 32
_MIN_SECRET_BYTES = 32
_MIN_SECRET_VARIETY = 8

# The version stands for everything about the form; another form gets another one.
_PREFIX = "kp1."

_MADE_BY_US = b"keypool-asgi streaming token 1"
_RECORDED = b"keypool-asgi recorded token 1"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a temporary token stands for.

    Attributes:
        team_token: token of the team that it was made for.
        service: the provider's service whose sessions it opens.
        expires: Unix time in seconds from which on it opens nothing more. Sessions that are open then go on.
        max_session_seconds: how long a session that it opens may last.
        key_id: id of the key that it was made with; None for one that we made.
    """

    team_token: Secret
    service: str
    expires: float
    max_session_seconds: int
    key_id: str | None = None


def seal_grant(token: str, grant: Grant) -> str:
    """Return a grant as a JSON object that only the temporary token itself opens, to be recorded under its digest."""
    lock = _Lock(token.encode(), _RECORDED)
    plain = [grant.service, grant.expires, grant.max_session_seconds, grant.key_id]
    # One token seals one grant, so that no key stream is used twice and no nonce is needed.
    sealed = lock.seal(grant.team_token.reveal().encode(), b"", _packed(plain))
    return json.dumps({"grant": plain, "sealed": _to_text(sealed)})


def open_grant(token: str, summary: str) -> Grant | None:
    """Return what was sealed with this token, or None when it was not, or was changed since."""
    try:
        found = json.loads(summary)
        service, expires, seconds, key_id = plain = found["grant"]
        sealed = _from_text(found["sealed"])
        team_token = _Lock(token.encode(), _RECORDED).open(sealed, b"", _packed(plain))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if team_token is None:
        return None
    return Grant(Secret(team_token.decode()), service, expires, seconds, key_id)


class TokenIssuer:
    """Makes temporary tokens that need no memory, and reads them again.

    A token is one word that may stand in a header field, a subprotocol and a URL alike.

    Args:
        secrets: the operator's secret, or several: the first makes tokens, all of them read. To rotate, put the new
            one first, and take the old one away ten minutes later.

    Raises:
        ConfigurationError: there is none, or one is too easily guessed. The message does not show it.
    """

    __slots__ = ("_locks",)

    def __init__(self, secrets: str | bytes | Iterable[str | bytes]) -> None:
        given = [secrets] if isinstance(secrets, str | bytes) else list(secrets)
        if not given:
            raise ConfigurationError(f"streaming_token_secret: must not be empty; {_HOW_TO_MAKE}")
        self._locks = tuple(_Lock(_checked_secret(one), _MADE_BY_US) for one in given)

    def issue(self, grant: Grant, nonce: bytes) -> str:
        """Make a token.

        Args:
            grant: what it stands for.
            nonce: ``NONCE_BYTES`` random bytes, never used before.

        Raises:
            BadRequest: the team token is so long that the temporary token would not fit into a header field.
        """
        plain = [grant.team_token.reveal(), grant.service, grant.expires, grant.max_session_seconds]
        token = _PREFIX + _to_text(nonce + self._locks[0].seal(_packed(plain), nonce, _PREFIX.encode()))
        if len(token) > MAX_TOKEN_BYTES:
            raise BadRequest("The team token is too long for temporary tokens to be made of it.")
        return token

    def read(self, token: str) -> Grant | None:
        """Return what a token stands for, expired or not; None when it was not made here, or was changed."""
        if not token.startswith(_PREFIX):
            return None
        try:
            data = _from_text(token[len(_PREFIX) :])
        except ValueError:
            return None
        nonce, sealed = data[:NONCE_BYTES], data[NONCE_BYTES:]
        for lock in self._locks:
            plain = lock.open(sealed, nonce, _PREFIX.encode())
            if plain is not None:
                team_token, service, expires, seconds = json.loads(plain)
                return Grant(Secret(team_token), service, expires, seconds)
        return None

    def __repr__(self) -> str:
        return f"<TokenIssuer: {len(self._locks)} secrets>"


class _Lock:
    """Seals texts under keys that are derived from one secret for one purpose."""

    __slots__ = ("_stream_key", "_tag_key")

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        self._stream_key = hmac.digest(secret, purpose + b", key stream", "sha256")
        self._tag_key = hmac.digest(secret, purpose + b", tag", "sha256")

    def seal(self, plain: bytes, nonce: bytes, beside: bytes) -> bytes:
        """Return ``plain`` encrypted, and a tag over it and over what stands ``beside`` it in clear."""
        hidden = self._mask(plain, nonce)
        return hidden + self._tag(hidden, nonce, beside)

    def open(self, sealed: bytes, nonce: bytes, beside: bytes) -> bytes | None:
        """Return what was sealed, or None when anything of it is not as it was."""
        hidden, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(hidden, nonce, beside)):
            return None
        return self._mask(hidden, nonce)

    def _mask(self, data: bytes, nonce: bytes) -> bytes:
        stream = shake_256(self._stream_key + nonce).digest(len(data))
        return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))

    def _tag(self, hidden: bytes, nonce: bytes, beside: bytes) -> bytes:
        # With their lengths, so that no two different triples make one text.
        parts = b"".join(len(part).to_bytes(8) + part for part in (nonce, beside, hidden))
        return hmac.digest(self._tag_key, parts, "sha256")


_HOW_TO_MAKE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


def _checked_secret(secret: object) -> bytes:
    if not isinstance(secret, str | bytes):
        raise ConfigurationError(f"streaming_token_secret: must be text or bytes, not {type(secret).__name__}")
    data = secret.encode() if isinstance(secret, str) else secret
    if len(data) < _MIN_SECRET_BYTES or len(set(data)) < _MIN_SECRET_VARIETY:
        raise ConfigurationError(
            f"streaming_token_secret: must be at least {_MIN_SECRET_BYTES} random bytes or characters; {_HOW_TO_MAKE}"
        )
    return data


def _packed(values: list[object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _from_text(text: str) -> bytes:
    """Decode what ``_to_text`` has made.

    Raises:
        ValueError: it would have been written otherwise; base64 decoders forgive more than one spelling.
    """
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _to_text(data) != text:
        raise binascii.Error("not the one spelling")
    return data
