"""Ownership: which resources a request names, and what an answer creates. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keypool_asgi.errors import BadRequest, NotFound

from .messages import Headers
from .resources import Ref, Resource

__all__ = [
    "NO_SUCH_RESOURCE",
    "Creates",
    "Names",
    "ResourceRules",
    "check_owner",
    "decoded_json",
    "named_values",
    "owner_project",
]

NO_SUCH_RESOURCE = "Not found: there is no such resource, or it is not this team's."
"""One sentence for both, so that nobody can tell "not yours" from "does not exist" (invariant I3)."""


_MAX_DECODED_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Names:
    """A place in a request that names a resource.

    Attributes:
        kind: of which resource.
        field: name of the parameter of the path or query, or of the member of the JSON body or message.
        in_body: whether it is in the body, or in the messages of a WebSocket session, rather than in the path.
        in_query: whether it is in the query.
        within: name of the parameter of the query whose value is a JSON object that has it, where it is no parameter
            itself.
    """

    kind: str
    field: str
    in_body: bool = False
    in_query: bool = False
    within: str | None = None


@dataclass(frozen=True, slots=True)
class Creates:
    """What a successful answer creates: the kind, and the top-level member of the JSON body that identifies it."""

    kind: str
    field: str


@dataclass(frozen=True, slots=True)
class ResourceRules:
    """What a provider knows about its resources.

    Attributes:
        refer: kind and identifying text to a reference.
        is_known: whether a reference that nobody owns must be refused; False for what may lie elsewhere (a recording's
            URL on somebody's own server). In doubt it is True.
        describe: kind and JSON object to last status and summary for lists.
        says_gone: status and beginning of the body to whether upstream says that a named resource does not exist.
        safe_reads: kind to the operation (a GET), and its path parameter, that finds out whether a project has it.
    """

    refer: Callable[[str, str], Ref]
    is_known: Callable[[Ref], bool]
    describe: Callable[[str, dict[str, Any]], tuple[str | None, str]]
    says_gone: Callable[[int, bytes], bool]
    safe_reads: dict[str, tuple[str, str]]


def named_values(body: bytes, fields: Iterable[str]) -> list[tuple[str, str]]:
    """Return the texts of a JSON object's members of these names, as pairs of name and text.

    Servers differ in which of two equal members they take, in whether case counts, in which objects within the object
    they look at, and in whether a list will do. A request must not be checked by one reading and served by another, so
    every such member counts.

    Raises:
        BadRequest: the body is not a JSON object in UTF-8.
    """
    if b"\0" in body:  # UTF-16 and UTF-32, which some parsers guess
        raise BadRequest("The request body is not JSON in UTF-8.")
    if body.isascii() and b"\\u" not in body:
        lowered = body.lower()
        if not any(field.encode() in lowered for field in fields):
            return []
    return _collected(body, frozenset(fields))


def _collected(body: bytes, wanted: frozenset[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def collect(members: list[tuple[str, Any]]) -> object:
        for name, value in members:
            folded = _folded(name)
            if folded in wanted:
                texts = value if isinstance(value, list) else [value]
                found.extend((folded, text) for text in texts if isinstance(text, str))
        return _OBJECT  # instead of a tree

    try:
        whole = json.loads(body.decode("utf-8-sig"), object_pairs_hook=collect)
    except (ValueError, RecursionError):
        raise BadRequest("The request body is not valid JSON in UTF-8.") from None
    if whole is not _OBJECT:
        raise BadRequest("The request body is not a JSON object.")
    return found


def _folded(name: str) -> str:
    """A member's name as the most lenient parser compares it: without case, and i without regard to its dot."""
    return name.casefold().replace("\u0131", "i").replace("i\u0307", "i")


_OBJECT = object()


def owner_project(owners: Iterable[Resource]) -> str | None:
    """Return the project that owns all of these, None when there are none.

    Raises:
        BadRequest: they belong to different projects, so that no key can serve the request.
    """
    project: str | None = None
    for owner in owners:
        if project not in (None, owner.project):
            raise BadRequest("The request names resources of different projects, which no key can use together.")
        project = owner.project
    return project


def decoded_json(headers: Headers, body: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an answer, or None when it is not one that can be read."""
    encoding = next(
        (value.strip().lower() for name, value in headers if name.lower() == b"content-encoding"), b"identity"
    )
    try:
        if encoding in (b"gzip", b"deflate"):
            body = zlib.decompressobj(wbits=47 if encoding == b"gzip" else 15).decompress(body, _MAX_DECODED_BYTES)
        found = json.loads(body)
    except (ValueError, RecursionError, zlib.error):
        return None
    return found if isinstance(found, dict) else None


def check_owner(resource: Resource | None, team: str, *, shared: bool) -> Resource:
    """Return a resource that the team may use.

    Raises:
        NotFound: it is unknown, or another team's and not ``shared``.
    """
    if resource is None or (resource.team != team and not shared):
        raise NotFound(NO_SUCH_RESOURCE)
    return resource
