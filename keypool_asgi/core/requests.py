"""The upstream request as a pure function of the caller's."""

from __future__ import annotations

import re

from .headers import Framing, forwarded_query, upstream_fields
from .keys import UpstreamKey
from .messages import Headers, Origin, RequestHead
from .operations import SOCKET, Operation

__all__ = ["upstream_request"]

# A shorter token would be found by chance in nearly every field.
_SHORTEST_SEARCHED = 8

# The coding, unless its weight is zero (RFC 9110, section 12.5.3).
_TAKES_GZIP = re.compile(rb"(?<![a-z-])gzip(?![a-z-])(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))")

# A method with a meaning for bodies says so when there is none (RFC 9110, section 8.6).
_METHODS_WITH_BODIES = ("POST", "PUT", "PATCH")

# An upgrade has no body, though some clients name its type; and its handshake is between neighbours (RFC 6455, 4.1).
_NOT_IN_UPGRADES = (b"content-", b"sec-websocket-")


def upstream_request(
    method: str,
    path: str,
    query: bytes,
    headers: Headers,
    *,
    operation: Operation,
    framing: Framing,
    origin: Origin,
    key: UpstreamKey,
    token: str,
    via: bytes | None,
) -> RequestHead:
    """Build the head of the upstream request.

    The target comes from the operations table, the host from the key's region, the credential from the key, and the
    length from the framing that was checked; of the caller's own fields those pass that the header policy lets through.
    For a WebSocket session it is the upgrade request but for the fields of the handshake itself, which the connection
    adds.

    Args:
        method: the caller's method; ``"GET"`` for a session.
        path: upstream path, rebuilt from the table.
        query: the caller's raw query string.
        headers: the caller's fields, names in lower case.
        operation: what is asked.
        framing: how the body is delimited.
        origin: the service's base.
        key: the key to present.
        token: the token that the caller presented, team or temporary, which must not pass.
        via: what to announce ourselves as (RFC 9110, section 7.6.3), None for nothing.
    """
    secret_token = token.encode("latin-1") if len(token) >= _SHORTEST_SEARCHED else b""
    target = (origin.path + path).encode("ascii")
    kept_query = forwarded_query(query, secret_token)
    if kept_query:
        target += b"?" + kept_query
    is_socket = operation.method == SOCKET
    if is_socket:
        headers = [field for field in headers if not field[0].startswith(_NOT_IN_UPGRADES)]
    fields = [
        (b"host", origin.authority),
        (b"authorization", _credential(operation, key)),
        *upstream_fields(headers, token=secret_token),
    ]
    if framing.chunked or framing.length or method in _METHODS_WITH_BODIES:
        fields += _body_fields(operation, framing, fields)
    if via is not None:
        fields.append((b"via", b"1.1 " + via))
    if not is_socket:
        fields.append((b"accept-encoding", _encodings(headers, operation)))
    return RequestHead(method.encode("ascii"), origin, target, fields, operation.patience)


def _credential(operation: Operation, key: UpstreamKey) -> bytes:
    secret = key.secret.reveal().encode("ascii")
    return b"Bearer " + secret if operation.bearer else secret


def _encodings(headers: Headers, operation: Operation) -> bytes:
    """What upstream may compress answers with: what both the caller and we can read, for errors are read here.

    An answer that creates something is read for every caller's sake, and comes in plain text.
    """
    if operation.creates:
        return b"identity"
    offered = [value for name, value in headers if name == b"accept-encoding"]
    return b"gzip" if offered and _TAKES_GZIP.search(b",".join(offered).lower()) else b"identity"


def _body_fields(operation: Operation, framing: Framing, fields: Headers) -> Headers:
    """Fields that we write: what the body is, and how long."""
    own: Headers = []
    has_body = framing.chunked or framing.length
    if has_body and operation.content_type and not any(name == b"content-type" for name, _ in fields):
        own.append((b"content-type", operation.content_type))
    if framing.chunked:
        own.append((b"transfer-encoding", b"chunked"))
    else:
        own.append((b"content-length", b"%d" % (framing.length or 0)))
    return own
