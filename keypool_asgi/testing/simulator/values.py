"""The frozen values that cross the simulator's borders: a request as the products see it, and their reply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .world import Key

__all__ = ["Body", "Headers", "Part", "Refused", "Reply", "Request", "Service", "json_reply"]

Headers = list[tuple[bytes, bytes]]
"""Header fields in wire order, duplicates kept, names as given."""

Service = Literal["api", "streaming", "llm_gateway", "sync", "dictation", "agents", "tts", "token"]
"""One of AssemblyAI's hosts. The simulator tells them apart by the first segment of the path."""


class Refused(Exception):
    """A product refuses a request; each service renders it in its own dialect of JSON.

    Attributes:
        status: the HTTP status.
        text: what the caller reads.
        code: a machine-readable code, for the services that have one.
        headers: further fields of the answer, such as ``Retry-After``.
    """

    def __init__(self, status: int, text: str, *, code: str = "", headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code
        self.headers = list(headers)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a ``multipart/form-data`` body.

    Attributes:
        name: the form field's name.
        content_type: of the part, lower case; empty when it has none.
        size: of its content, in bytes.
        start: the first bytes of its content.
    """

    name: str
    content_type: str
    size: int
    start: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A complete request body, summed up: nothing of it is held but its beginning.

    Attributes:
        size: in bytes.
        sha256: of the whole body, in hexadecimal.
        start: the first bytes, all of them when ``size`` is the length of ``start``.
        parts: of a ``multipart/form-data`` body, in the order in which they came; None for other bodies.
    """

    size: int
    sha256: str
    start: bytes
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request as the products see it.

    Attributes:
        number: of its record, counting from 1.
        service: which of AssemblyAI's hosts it was sent to.
        region: ``us`` or ``eu``.
        method: in upper case.
        path: decoded, without query, and without the segment that names the service.
        query: one value per name.
        headers: names in lower case.
        body: the complete body.
        base: the absolute URL of the service, without a slash at its end.
        now: Unix time in seconds.
        caller: the key that was presented, once it is known to be good.
        names: the parts of the path that the route names, such as ``id``.
    """

    number: int
    service: Service
    region: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Headers
    body: Body
    base: str
    now: float
    caller: Key | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The key of an authenticated request."""
        if self.caller is None:
            raise LookupError("this route is not authenticated")
        return self.caller

    def header(self, name: bytes) -> str | None:
        """Return the first value of the field ``name`` (lower case), or None."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object.

        Raises:
            Refused: 400, it is not one.
        """
        try:
            value = json.loads(self.body.start)
        except ValueError:
            raise Refused(400, "Invalid JSON in request body") from None
        if not isinstance(value, dict):
            raise Refused(400, "Invalid JSON in request body, an object is expected")
        return value


@dataclass(frozen=True, slots=True)
class Reply:
    """One final response.

    Attributes:
        status: the HTTP status.
        headers: without the fields that frame the body.
        body: the whole body, or its pieces when it is streamed.
        pause: seconds between two pieces of a streamed body.
    """

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes | Iterable[bytes] = b""
    pause: float = 0.0


def json_reply(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """Return ``value`` as a JSON reply."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Reply(status, [(b"Content-Type", b"application/json"), *headers], body)
