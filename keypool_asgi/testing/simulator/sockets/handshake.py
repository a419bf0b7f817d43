"""The upgrade of a connection (RFC 6455, section 4.2), and what no sane proxy sends in it."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from email.utils import formatdate

from wsproto.extensions import Extension, PerMessageDeflate

from keypool_asgi.testing.simulator.messages import head_bytes
from keypool_asgi.testing.simulator.values import Headers

__all__ = ["VERSION", "accept", "agree", "listed", "violations", "wants_upgrade"]

VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ONCE = (b"upgrade", b"connection", b"sec-websocket-key", b"sec-websocket-version", b"origin")


def wants_upgrade(headers: Headers) -> bool:
    """Tell whether a request asks for a WebSocket."""
    return any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in headers)


def listed(headers: Headers, name: bytes) -> tuple[str, ...]:
    """Return the members of a list field, which may be given several times."""
    values = (value.decode("latin-1").split(",") for field, value in headers if field == name)
    return tuple(member.strip() for members in values for member in members if member.strip())


def violations(method: bytes, version: bytes, headers: Headers) -> Iterator[str]:
    """List what is wrong with an upgrade request; ``headers`` have names in lower case."""
    fields = dict(headers)
    if method != b"GET" or version < b"1.1":
        yield f"an upgrade with {method.decode('latin-1')} over HTTP/{version.decode('latin-1')}"
    for name in _ONCE:
        if sum(field == name for field, _ in headers) > 1:
            yield f"{name.decode()} given more than once"
    if [each.lower() for each in listed(headers, b"connection")] != ["upgrade"]:
        yield f"Connection: {fields.get(b'connection', b'').decode('latin-1')}"
    if fields.get(b"sec-websocket-version", b"").strip() != VERSION:
        yield "Sec-WebSocket-Version is not 13"
    if not _is_key(fields.get(b"sec-websocket-key", b"")):
        yield "Sec-WebSocket-Key is not the base64 of 16 bytes"
    if fields.get(b"content-length", b"0").strip() != b"0" or b"transfer-encoding" in fields:
        yield "an upgrade with a body"
    for name in (b"origin", b"sec-websocket-protocol"):
        if name in fields:
            yield f"field {name.decode()} must not be forwarded"


def agree(headers: Headers, *, deflate: bool) -> tuple[list[Extension], str]:
    """Choose among the extensions that were offered; returns them, and the field that says so."""
    for offer in listed(headers, b"sec-websocket-extensions") if deflate else ():
        if offer.split(";")[0].strip() == PerMessageDeflate.name:
            extension = PerMessageDeflate()
            parameters = extension.accept(offer)
            if isinstance(parameters, str):
                return [extension], "; ".join(part for part in (extension.name, parameters) if part)
    return [], ""


def accept(headers: Headers, *, extensions: str, others: Iterable[tuple[bytes, bytes]], now: float) -> bytes:
    """Return the 101 response; ``others`` take the place of fields of the same name."""
    key = dict(headers)[b"sec-websocket-key"].strip()
    digest = base64.b64encode(hashlib.sha1(key + _GUID).digest())  # noqa: S324 # RFC 6455 says so
    fields = [
        (b"Date", formatdate(now, usegmt=True).encode()),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", digest),
    ]
    if extensions:
        fields.append((b"Sec-WebSocket-Extensions", extensions.encode()))
    others = list(others)
    replaced = {name.lower() for name, _ in others}
    return head_bytes(101, [*(field for field in fields if field[0].lower() not in replaced), *others])


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value.strip(), validate=True)) == 16
    except binascii.Error:
        return False
