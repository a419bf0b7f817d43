"""Team tokens: finding the one that a caller presents, and the digests that stand for them at rest.

A request presents its token in a header field. A WebSocket upgrade may come from a browser, which can set none: there
the token may also be a subprotocol, or, if it is a temporary one, the query parameter ``token``.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Literal
from urllib.parse import unquote_to_bytes

from keypool_asgi.errors import ConfigurationError

from .keys import Secret

__all__ = [
    "MAX_TOKEN_BYTES",
    "NOT_FOR_SUBPROTOCOLS",
    "SUBPROTOCOL",
    "NoToken",
    "Presented",
    "RefusalForm",
    "TokenDigester",
    "chosen_subprotocol",
    "presented_on_socket",
    "presented_token",
    "refusal_form",
    "token_fault",
    "travels_in_subprotocol",
]

MAX_TOKEN_BYTES = 4096

SUBPROTOCOL = "keypool"
"""A browser offers it beside the one with its token, so that the answer need not repeat the token."""

NOT_FOR_SUBPROTOCOLS = (
    "This team token cannot be sent by browsers as a subprotocol: use letters, digits and !#$%&'*+-.^_`|~ only."
)
"""What to say of a team token that does not ``travels_in_subprotocol``."""

RefusalForm = Literal["in_band", "http"]
"""``"in_band"``: accept, say why in an ``Error`` message, close. ``"http"``: a status instead of the upgrade."""

_TOKEN_SUBPROTOCOL = "keypool-token."  # noqa: S105 # what stands before the token

_FIELDS = frozenset({b"authorization", b"x-api-key"})

_HOW = "send it as Authorization: Bearer <token>, as Authorization: <token>, or as x-api-key: <token>"

# What a field value can carry as one word: visible ASCII (RFC 9110, section 5.5).
_VISIBLE_ASCII = bytes(range(0x21, 0x7F))

# A subprotocol is a token as RFC 9110, section 5.6.2, has it (RFC 6455, section 11.3.4).
_FIELD_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")

# How the official SDKs name themselves, those that do: "AssemblyAI/1.0 (sdk=Python/1.8.2 ...)".
_SDK_MARK = b"sdk="


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


@dataclass(frozen=True, slots=True)
class Presented:
    """The token of a WebSocket upgrade.

    Attributes:
        token: team token or temporary token; what it is cannot be seen from it.
        in_url: whether it stands in the URL, where a team token must not.
    """

    token: Secret
    in_url: bool


def presented_token(headers: Iterable[tuple[bytes, bytes]]) -> Secret | NoToken:
    """Return the team token of a request, or what is wrong with it.

    Read from ``Authorization: Bearer <token>`` (any case of the scheme, RFC 9110, section 11.1), from
    ``Authorization: <token>`` (what the official SDKs send) and from ``x-api-key: <token>``. The same token may come
    more than once; a field that presents no sound token spoils the request, whatever the others say.

    Args:
        headers: the scope's field pairs, names in lower case as ASGI has them.
    """
    token = _in_fields(headers)
    return Secret(token.decode("ascii")) if isinstance(token, bytes) else token


def presented_on_socket(
    headers: Iterable[tuple[bytes, bytes]], subprotocols: Iterable[str], query: bytes
) -> Presented | NoToken:
    """Return the token of a WebSocket upgrade, or what is wrong with it.

    Read from the fields that ``presented_token`` reads, from a subprotocol ``keypool-token.<token>``, and from the
    query parameter ``token``, by the same rules.

    Args:
        headers: the scope's field pairs, names in lower case.
        subprotocols: those that the caller offers.
        query: raw query string.
    """
    in_url = [token_fault(value) or value for value in _query_values(query)]
    found = [_in_fields(headers), *_in_subprotocols(subprotocols), *in_url]
    token: bytes | None = None
    for one in found:
        if one is NoToken.MISSING:
            continue
        if isinstance(one, NoToken):
            return one
        if token is not None and not hmac.compare_digest(token, one):
            return NoToken.CONTRADICTING
        token = one
    return NoToken.MISSING if token is None else Presented(Secret(token.decode("ascii")), bool(in_url))


def travels_in_subprotocol(token: str) -> bool:
    """Whether a token can be sent as a subprotocol: browsers throw on characters that a field token cannot have."""
    return bool(_FIELD_TOKEN.match(token))


def chosen_subprotocol(offered: Iterable[str]) -> str | None:
    """Return the subprotocol to accept a WebSocket with, of those that are offered; None for none.

    Browsers and Node's ``ws`` fail a connection on which they offered some and none was chosen. The one with the
    token is chosen only where there is no other: the answer's header fields may be seen by more than the caller.
    """
    names = [name.strip(" \t") for name in offered]
    if SUBPROTOCOL in names:
        return SUBPROTOCOL
    return next((name for name in names if name.startswith(_TOKEN_SUBPROTOCOL)), None)


def refusal_form(headers: Iterable[tuple[bytes, bytes]], subprotocols: Iterable[str], query: bytes) -> RefusalForm:
    """Return the form in which a refused caller gets to see why, by how it presents itself.

    In band for browsers, which hide the status of a failed upgrade from the page (they present a subprotocol or
    ``?token=``), and for the official SDKs, which show a status without its text; Node's sends no User-Agent at all.
    Everybody else gets a status: LiveKit and pipecat would take an accepted connection for a success and try again.
    """
    fields, offered = list(headers), list(subprotocols)
    if chosen_subprotocol(offered) is not None or _query_values(query):
        return "in_band"
    if not offered and any(name == b"origin" for name, _ in fields):
        return "in_band"  # a web page that presents nothing: the beginner's mistake
    agents = [value for name, value in fields if name == b"user-agent" and value.strip()]
    return "http" if agents and not any(_SDK_MARK in value for value in agents) else "in_band"


def token_fault(token: bytes) -> NoToken | None:
    """What keeps a token from travelling in a header field, if anything."""
    if not token:
        return NoToken.EMPTY
    if len(token) > MAX_TOKEN_BYTES:
        return NoToken.TOO_LONG
    return NoToken.MALFORMED if token.translate(None, delete=_VISIBLE_ASCII) else None


def _in_fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes | NoToken:
    token: bytes | None = None
    for name, value in headers:
        if name not in _FIELDS:
            continue
        found = _credential(name, value.strip(b" \t"))
        if not isinstance(found, bytes):
            return found
        if token is not None and not hmac.compare_digest(token, found):
            return NoToken.CONTRADICTING
        token = found
    return NoToken.MISSING if token is None else token


def _credential(name: bytes, value: bytes) -> bytes | NoToken:
    """The sound token in one field."""
    if name == b"authorization":
        scheme, space, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            value = rest.strip(b" ")
        elif space:
            return NoToken.OTHER_SCHEME
    return token_fault(value) or value


def _in_subprotocols(subprotocols: Iterable[str]) -> list[bytes | NoToken]:
    """The tokens that are offered as subprotocols, or what is wrong with each."""
    names = [name.strip(" \t") for name in subprotocols]
    texts = [name.removeprefix(_TOKEN_SUBPROTOCOL) for name in names if name.startswith(_TOKEN_SUBPROTOCOL)]
    return [_from_subprotocol(text) for text in texts]


def _from_subprotocol(text: str) -> bytes | NoToken:
    if text and not travels_in_subprotocol(text):
        return NoToken.MALFORMED
    token = text.encode("ascii")
    return token_fault(token) or token


def _query_values(query: bytes) -> list[bytes]:
    """Every value of the parameter ``token``, decoded as forms are."""
    pairs = [part.replace(b"+", b" ").partition(b"=") for part in query.split(b"&")]
    return [unquote_to_bytes(value) for name, _, value in pairs if unquote_to_bytes(name) == b"token"]


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
