"""Team tokens: finding the one that a caller presents, and the digests that stand for them at rest."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from enum import Enum
from hashlib import sha256

from keypool_asgi.errors import ConfigurationError

from .keys import Secret

__all__ = ["MAX_TOKEN_BYTES", "NoToken", "TokenDigester", "presented_token", "token_fault"]

MAX_TOKEN_BYTES = 4096

_FIELDS = frozenset({b"authorization", b"x-api-key"})

_HOW = "send it as Authorization: Bearer <token>, as Authorization: <token>, or as x-api-key: <token>"

# What a field value can carry as one word: visible ASCII (RFC 9110, section 5.5).
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+\Z")


class NoToken(Enum):
    """Why a request presents no usable team token. The value is the sentence for the caller, without the token."""

    MISSING = f"The team token is missing: {_HOW}."
    EMPTY = f"The team token is empty: {_HOW}."
    OTHER_SCHEME = f"The Authorization header has a scheme other than Bearer: to present a team token, {_HOW}."
    MALFORMED = "The team token is malformed: it is one word of visible ASCII characters, without spaces."
    TOO_LONG = f"The team token is too long: it has at most {MAX_TOKEN_BYTES} characters."
    CONTRADICTING = f"The request presents several different team tokens: {_HOW}, once."

    @property
    def sentence(self) -> str:
        """What the caller reads with the 401."""
        return self.value

    @property
    def absent(self) -> bool:
        """Whether the request presents nothing at all."""
        return self is NoToken.MISSING


def presented_token(headers: Iterable[tuple[bytes, bytes]]) -> Secret | NoToken:
    """Return the team token of a request, or what is wrong with it.

    Read from ``Authorization: Bearer <token>`` (any case of the scheme, RFC 9110, section 11.1), from
    ``Authorization: <token>`` (what the official SDKs send) and from ``x-api-key: <token>``. The same token may come
    more than once; a field that presents no sound token spoils the request, whatever the others say.

    Args:
        headers: the scope's field pairs, names in lower case as ASGI has them.
    """
    token: bytes | None = None
    for name, value in headers:
        if name not in _FIELDS:
            continue
        found = _credential(name, value.strip(b" \t"))
        if isinstance(found, NoToken):
            return found
        if token is not None and not hmac.compare_digest(token, found):
            return NoToken.CONTRADICTING
        token = found
    return NoToken.MISSING if token is None else Secret(token.decode("ascii"))


def token_fault(token: bytes) -> NoToken | None:
    """What keeps a token from travelling in a header field, if anything."""
    if not token:
        return NoToken.EMPTY
    if len(token) > MAX_TOKEN_BYTES:
        return NoToken.TOO_LONG
    return None if _VISIBLE_ASCII.match(token) else NoToken.MALFORMED


def _credential(name: bytes, value: bytes) -> bytes | NoToken:
    """The sound token in one field."""
    if name == b"authorization":
        scheme, space, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            value = rest.strip(b" ")
        elif space:
            return NoToken.OTHER_SCHEME
    return token_fault(value) or value


class TokenDigester:
    """Makes the digests that stand for team tokens, so that the tokens themselves need not be kept.

    Args:
        pepper: secret of the operator, kept apart from where the digests are: HMAC-SHA-256 under it. None is plain
            SHA-256, which protects long random tokens only.

    Raises:
        ConfigurationError: the pepper is empty, or neither text nor bytes.
    """

    __slots__ = ("_start",)

    def __init__(self, pepper: str | bytes | None = None) -> None:
        if pepper is not None and (not isinstance(pepper, str | bytes) or not pepper):
            raise ConfigurationError("pepper: must be a text or bytes that is not empty, or None")
        key = pepper.encode() if isinstance(pepper, str) else pepper
        # What every digest starts from, so that the key is worked in once.
        self._start = sha256() if key is None else hmac.new(key, digestmod="sha256")

    def digest(self, token: str) -> bytes:
        """The 32 bytes that stand for a token."""
        state = self._start.copy()
        # Any text has a digest, even one that no header can carry: it is simply nobody's.
        state.update(token.encode("utf-8", "surrogatepass"))
        return state.digest()

    def matches(self, token: str, digest: bytes) -> bool:
        """Whether a digest stands for a token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(self.digest(token), digest)

    def __repr__(self) -> str:
        return f"TokenDigester({self._start.name})"
