"""Operations: the named endpoints of a provider, and finding the one that a request asks for.

A request's upstream path is *rebuilt* from its row and from checked identifiers, never copied from the caller, so no
encoded slash, dot segment or other trick of a path can reach upstream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import parse_qsl

from keypool_asgi.errors import ConfigurationError

from .messages import Headers
from .ownership import Creates, Names, named_values

__all__ = ["Condition", "Match", "Operation", "OperationTable", "named_in_head"]

# Identifiers are UUIDs and short names upstream; whatever else stands in their place is not an identifier.
_MOST_CHARACTERS = 128
_IDENTIFIER = re.compile(rf"[A-Za-z0-9_-]{{1,{_MOST_CHARACTERS}}}\Z")

_REMEMBERED_PATHS = 1024

SOCKET = "WEBSOCKET"
"""What stands for the method in the rows of WebSocket operations."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Tells rows of one path apart: true when the header, or one of the query parameters, is there."""

    header: bytes | None = None
    query: frozenset[str] = frozenset()

    def holds(self, headers: Headers, query: bytes) -> bool:
        """Whether a request with these (lower-case) header fields and this raw query string fits."""
        if self.header is not None:
            return any(name == self.header for name, _ in headers)
        names = {name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)}
        return not self.query.isdisjoint(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the operations table.

    Attributes:
        name: what teams are permitted by, such as ``"transcripts.create"``.
        method: HTTP method, or ``"WEBSOCKET"``.
        path: template below the prefix and upstream alike, such as ``"/v2/transcript/{transcript_id}"``.
        service: the provider's service that serves it; fixes the host.
        patience: seconds that upstream may take for the response head after the whole request.
        condition: what tells this row from the next one with the same method and path.
        bearer: whether upstream wants the key as ``Bearer``; else it goes raw into ``Authorization``.
        anonymous: answered 200 by ourselves when no token is presented: a warm-up that some clients send bare.
        content_type: what the request body is when the caller does not say.
        names: where a request names resources, which the team must own.
        creates: what a successful answer creates, which the team then owns.
        deletes: whether a successful answer means that the named resource is no more.
        gone: what to use instead of a retired endpoint; such a row is never forwarded.
        named_in_path: kind of each resource that the path names, and the parameter that does.
        named_in_query: the places in the query that name resources.
        named_in_body: member of the body, or of a session's messages, to the kind of resource that it names.
    """

    name: str
    method: str
    path: str
    service: str
    patience: float = 60.0
    condition: Condition | None = None
    bearer: bool = False
    anonymous: bool = False
    content_type: bytes | None = None
    names: tuple[Names, ...] = ()
    creates: Creates | None = None
    deletes: bool = False
    gone: str | None = None

    named_in_path: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    named_in_query: tuple[Names, ...] = field(init=False, repr=False, compare=False)
    named_in_body: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the names by their places, once: every request is looked through for them."""
        in_path = [(name.kind, name.field) for name in self.names if not (name.in_body or name.in_query)]
        object.__setattr__(self, "named_in_path", tuple(in_path))
        object.__setattr__(self, "named_in_query", tuple([name for name in self.names if name.in_query]))
        object.__setattr__(self, "named_in_body", {name.field: name.kind for name in self.names if name.in_body})


def named_in_head(operation: Operation, ids: Mapping[str, str], query: bytes) -> list[tuple[str, str]]:
    """Return what a request's path and query name, as pairs of kind and text."""
    found = [(kind, ids[parameter]) for kind, parameter in operation.named_in_path]
    if operation.named_in_query:
        found += _named_in_query(operation.named_in_query, query)
    return found


def _named_in_query(names: Iterable[Names], query: bytes) -> Iterator[tuple[str, str]]:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name in names:
        texts = [text for parameter, text in pairs if parameter == (name.within or name.field)]
        if name.within is not None:
            texts = [value for text in texts for _, value in named_values(text.encode(), [name.field])]
        for text in texts:
            yield name.kind, text


@dataclass(slots=True)
class Match:
    """The operation that a request asks for, its upstream path and the identifiers it names.

    Not frozen, because one is made for every request.
    """

    operation: Operation
    path: str
    ids: Mapping[str, str]


@dataclass(slots=True)
class _Node:
    """A segment of the path: the rows that end here by method, and what may follow.

    Attributes:
        rows: method to its rows, the first whose condition holds counts.
        literal: what may follow word for word.
        parameter: name of the identifier that may follow instead.
        behind: what may follow that identifier; None when none may stand here.
    """

    rows: dict[str, list[Operation]] = field(default_factory=dict)
    literal: dict[str, _Node] = field(default_factory=dict)
    parameter: str = ""
    behind: _Node | None = None


_Place = tuple[Mapping[str, Sequence[Operation]], Mapping[str, str]]
"""The rows of a path by method, and the identifiers that it names; many requests share it."""


class OperationTable:
    """All operations of a provider, arranged for look-up by path segment.

    Args:
        operations: the rows. Of several with one method and path, the first whose condition holds is taken.

    Raises:
        ConfigurationError: a row can never be reached because one without a condition stands before it.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = tuple(operations)
        self._by_name = {operation.name: operation for operation in reversed(self.operations)}
        self._root = _Node()
        for operation in self.operations:
            rows = self._node_for(operation.path).rows.setdefault(operation.method, [])
            if rows and rows[-1].condition is None:
                raise ConfigurationError(f"operation {operation.name!r} is hidden by {rows[-1].name!r}")
            rows.append(operation)
        # No path of an operation is longer, which also bounds what is remembered of paths.
        self._longest = max((len(_longest(operation.path)) for operation in self.operations), default=0) + 1
        # Jobs are polled: the same path comes again and again.
        self._place = lru_cache(maxsize=_REMEMBERED_PATHS)(self._walk)

    def _node_for(self, template: str) -> _Node:
        node = self._root
        for segment in template[1:].split("/"):
            if not segment.startswith("{"):
                node = node.literal.setdefault(segment, _Node())
                continue
            if node.behind is None:
                node.parameter, node.behind = segment[1:-1], _Node()
            node = node.behind
        return node

    def named(self, name: str) -> Operation:
        """Return the first row of a name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    def find(self, method: str, path: str, headers: Headers, query: bytes) -> Match | None:
        """Return what a request asks for, or None when that is not in the table.

        Args:
            method: HTTP method, or ``"WEBSOCKET"``. ``HEAD`` asks for what ``GET`` does (RFC 9110, section 9.3.2).
            path: decoded path below the prefix. A second leading slash is forgiven: the Node SDK makes one of a
                base URL that ends in a slash.
            headers: the request's header fields, names in lower case.
            query: raw query string.
        """
        if len(path) > self._longest:
            return None
        if path.startswith("//"):
            path = path[1:]
        rows, ids = self._place(path)
        for operation in rows.get("GET" if method == "HEAD" else method, ()):
            if method == "HEAD" and operation.creates:
                continue  # it would create what nobody gets to see
            if operation.condition is None or operation.condition.holds(headers, query):
                return Match(operation, path, ids)
        return None

    def _walk(self, path: str) -> _Place:
        """Go along a path by its segments; returns the rows where it ends, none if it leads nowhere."""
        node: _Node = self._root
        ids: dict[str, str] = {}
        for segment in path[1:].split("/"):
            following = node.literal.get(segment)
            if following is None:
                following = node.behind
                if following is None or not _IDENTIFIER.match(segment):
                    return {}, {}
                ids[node.parameter] = segment
            node = following
        return node.rows, MappingProxyType(ids)


def _longest(template: str) -> str:
    """The longest path that a template stands for."""
    return re.sub(r"\{\w+\}", "x" * _MOST_CHARACTERS, template)
