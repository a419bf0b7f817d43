"""What no sane proxy may send. Each rule found broken is a sentence in ``Simulator.violations``, and a 400."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

from .values import Headers

__all__ = ["violations"]

_FORBIDDEN = frozenset(
    {b"keep-alive", b"upgrade", b"x-api-key", b"cookie", b"forwarded", b"x-real-ip", b"http2-settings"}
)
_FORBIDDEN_STARTS = (b"proxy-", b"x-forwarded-", b"x-keypool")
_ONCE = (b"host", b"authorization", b"content-length", b"content-type", b"transfer-encoding")


def violations(target: bytes, headers: Headers, authority: bytes, *, upgrade: bool = False) -> list[str]:
    """List what is wrong with the head of a request; ``headers`` have names in lower case.

    The fields of an ``upgrade`` to a WebSocket, and its token, are not looked at here.

    Hop-by-hop fields (RFC 9110, section 7.6.1), credentials of the caller's side, fields that tell who the caller
    is, framing that contradicts itself (RFC 9112, section 6.3), and a ``Host`` that is not the origin's.
    """
    others = [field for field in headers if field[0] not in (b"connection", b"upgrade")] if upgrade else headers
    return [*_framing(headers), *_fields(others), *_host(headers, authority), *_target(target, token=upgrade)]


def _framing(headers: Headers) -> Iterator[str]:
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        yield "both Content-Length and Transfer-Encoding"
    for name in _ONCE:
        if names.count(name) > 1:
            yield f"{name.decode()} given {names.count(name)} times"


def _fields(headers: Headers) -> Iterator[str]:
    for name, value in headers:
        text = value.lower()
        if name in _FORBIDDEN or name.startswith(_FORBIDDEN_STARTS):
            yield f"field {name.decode('latin-1')} must not be forwarded"
        elif name == b"connection" and text.strip() not in (b"keep-alive", b"close"):
            yield f"Connection: {value.decode('latin-1')}"
        elif name == b"te" and text.strip() != b"trailers":
            yield f"TE: {value.decode('latin-1')}"


def _host(headers: Headers, authority: bytes) -> Iterator[str]:
    host = next((value for name, value in headers if name == b"host"), b"")
    if host.lower() != authority:
        yield f"Host is {host.decode('latin-1')!r}, not {authority.decode()!r}"


def _target(target: bytes, *, token: bool) -> Iterator[str]:
    if not target.startswith(b"/"):
        yield f"request target {target.decode('latin-1')!r} is not in origin form"
    path, _, query = target.decode("latin-1").partition("?")
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        yield f"request target {path!r} has dot segments"
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name == "token" and not token:
            yield "query parameter token: AssemblyAI takes it for a credential"
