"""Header policy: which fields cross the proxy, in each direction (RFC 9110, section 7.6.1).

Order and duplicates are kept; nothing passes through a dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from keypool_asgi.errors import BadRequest, ConfigurationError

from .messages import Headers

__all__ = [
    "NO_BODY",
    "Framing",
    "checked_origins",
    "comes_from",
    "downstream_fields",
    "forwarded_query",
    "framing_of",
    "upstream_fields",
]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_NOT_FOR_UPSTREAM = _HOP_BY_HOP | frozenset(
    {
        # Credentials of the caller, whatever they are for (invariant I2).
        b"authorization",
        b"cookie",
        b"x-api-key",
        # Written anew for the upstream connection.
        b"accept-encoding",
        b"content-length",
        b"host",
        b"via",
        # The ASGI server answers it when we begin to read the body (RFC 9110, section 10.1.1).
        b"expect",
        # Who the caller is, and where it comes from, is not AssemblyAI's to know.
        b"cf-connecting-ip",
        b"forwarded",
        b"origin",
        b"referer",
        b"true-client-ip",
        b"x-client-ip",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-real-ip",
    }
)

_NOT_FOR_CALLERS = _HOP_BY_HOP | frozenset(
    {
        # The ASGI server writes its own; two of them would contradict each other.
        b"date",
        b"server",
        # These speak for a whole origin, and the caller's origin is the host app, not AssemblyAI.
        b"alt-svc",
        b"clear-site-data",
        b"nel",
        b"public-key-pins",
        b"report-to",
        b"strict-transport-security",
    }
)

# It has no body, and some servers would wait for one (RFC 9110, section 8.6).
_NOT_FOR_CALLERS_OF_204 = _NOT_FOR_CALLERS | {b"content-length"}

_CREDENTIAL_PARAMETERS = frozenset({b"token", b"api_key", b"apikey"})

# Scheme, host and port alone (RFC 6454, section 6.2); browser extensions and apps have schemes of their own.
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@dataclass(frozen=True, slots=True)
class Framing:
    """How a request's body is delimited (RFC 9112, section 6.3).

    Attributes:
        length: declared length in bytes; None when it is chunked.
        chunked: whether the length is unknown and the body ends where the sender says so.
    """

    length: int | None
    chunked: bool


NO_BODY = Framing(0, chunked=False)
"""Of a request without a body, as most are."""


def framing_of(method: str, http_version: str, headers: Headers) -> Framing:
    """Read a request's framing from its (lower-case) header fields.

    Raises:
        BadRequest: lengths that contradict each other or the transfer coding, a coding other than chunked, or several
            hosts. Such a request means different things to different servers (RFC 9112, sections 3.2 and 11.2), so
            it goes no further.
    """
    hosts = 0
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths.add(value.strip())
        elif name == b"transfer-encoding":
            codings.append(value.strip().lower())
    if hosts > 1:
        raise BadRequest("The request names its host more than once.")
    if len(lengths) > 1 or (lengths and codings):
        raise BadRequest("The request gives its length in more than one way: send one Content-Length, or none.")
    if codings:
        if codings != [b"chunked"]:
            raise BadRequest("The request uses a transfer coding other than chunked.")
        return Framing(None, chunked=True)
    if lengths:
        return Framing(_length(lengths.pop()), chunked=False)
    # HTTP/2 and later delimit bodies by themselves, so a body may follow though no field says so.
    unannounced = not http_version.startswith("1") and method in ("POST", "PUT", "PATCH")
    return Framing(None, chunked=True) if unannounced else NO_BODY


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadRequest("The request's Content-Length is not a number of bytes.")
    return int(value)


def upstream_fields(headers: Headers, *, token: bytes) -> Headers:
    """Return the caller's fields that go upstream.

    Args:
        headers: the caller's fields, names in lower case.
        token: the caller's team token; no field that holds it anywhere passes (invariant I2).
    """
    passed: Headers = []
    options: list[bytes] = []
    for field in headers:
        name, value = field
        if name in _NOT_FOR_UPSTREAM:
            if name == b"connection":
                options.append(value)
        # ``find``, because ``in`` tries the token as a number first: that is half of this function's time.
        elif not (token and (value.find(token) >= 0 or name.find(token) >= 0)):
            passed.append(field)
    return _without_named(passed, options)


def downstream_fields(status: int, headers: Headers) -> Headers:
    """Return the upstream response's fields that go to the caller, names in lower case as ASGI wants them."""
    dropped = _NOT_FOR_CALLERS_OF_204 if status == 204 else _NOT_FOR_CALLERS
    passed: Headers = []
    options: list[bytes] = []
    for given, value in headers:
        name = given.lower()
        if name in dropped:
            if name == b"connection":
                options.append(value)
        elif not name.startswith(b"access-control-"):  # who may read answers from a browser is the host's to say
            passed.append((name, value))
    return _without_named(passed, options)


def _without_named(fields: Headers, options: list[bytes]) -> Headers:
    """Leave out what ``Connection`` lists by these values: it belongs to the one hop only."""
    if not options or options == [b"keep-alive"]:
        return fields
    named = {option.strip().lower() for value in options for option in value.split(b",")}
    return [field for field in fields if field[0] not in named]


def forwarded_query(query: bytes, token: bytes) -> bytes:
    """Return the query string without parameters that carry a credential or the caller's token; the rest unparsed."""
    if not query:
        return query
    return b"&".join(part for part in query.split(b"&") if not _carries_credential(part, token))


def _carries_credential(parameter: bytes, token: bytes) -> bool:
    name = unquote_to_bytes(parameter.partition(b"=")[0]).lower()
    return name in _CREDENTIAL_PARAMETERS or bool(
        token and (token in parameter or token in unquote_to_bytes(parameter))
    )


def checked_origins(origins: Iterable[str]) -> frozenset[bytes]:
    """Return a setting's origins as ``comes_from`` compares them.

    Raises:
        ConfigurationError: it is one text instead of a collection, or one of them is not a scheme, a host and perhaps
            a port. ``null`` is none: every sandboxed page has it.
    """
    if isinstance(origins, str):
        raise ConfigurationError("allowed_origins: must be a collection of origins, not one text")
    origins = tuple(origins)
    for origin in origins:
        if not isinstance(origin, str) or not _ORIGIN.match(origin):
            raise ConfigurationError(f"allowed_origins: {origin!r} is not an origin such as 'https://app.example.com'")
    return frozenset(_folded_origin(origin.encode("ascii")) for origin in origins)


def comes_from(headers: Headers, origins: frozenset[bytes]) -> bool:
    """Whether a request comes from one of these origins, from the host that it goes to, or from no web page."""
    host = next((value.strip().lower() for name, value in headers if name == b"host"), b"")
    own = {_folded_origin(scheme + b"://" + host) for scheme in _DEFAULT_PORTS} if host else set()
    named = [_folded_origin(value) for name, value in headers if name == b"origin"]
    return all(origin in origins or origin in own for origin in named)


def _folded_origin(value: bytes) -> bytes:
    """An origin without differences of case, and without a port that goes without saying."""
    folded = value.strip(b" \t").lower()
    return folded.removesuffix(_DEFAULT_PORTS.get(folded.partition(b":")[0], b""))
