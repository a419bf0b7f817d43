"""What is written by hand about operations, as values; ``document`` joins it with the operations table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Body", "Example", "Frame", "Page", "Pages", "Parameter", "Schema", "Socket", "Tag"]

Schema = dict[str, Any]
"""A JSON Schema (draft 2020-12), as plain data."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example with a name.

    Attributes:
        summary: what it shows.
        value: the example itself.
    """

    summary: str
    value: Any


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path, the query or the header.

    Attributes:
        name: as it is sent.
        schema: its type and range.
        description: one or more sentences.
        required: whether a request without it is refused.
        where: ``"query"``, ``"header"`` or ``"path"``.
        example: a value that works; None for none.
    """

    name: str
    schema: Schema
    description: str
    required: bool = False
    where: str = "query"
    example: Any = None


@dataclass(frozen=True, slots=True)
class Body:
    """A request's or an answer's body.

    Attributes:
        schema: of the body.
        media: its media type.
        description: one or more sentences, or nothing.
        examples: by name.
    """

    schema: Schema
    media: str = "application/json"
    description: str = ""
    examples: Mapping[str, Example] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that an operation documents beside the errors, which all of them share.

    Attributes:
        description: what it means.
        bodies: of each media type that it may have; none for an answer without a body.
        headers: name to schema, of those worth reading.
    """

    description: str
    bodies: tuple[Body, ...] = ()
    headers: Mapping[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of a WebSocket session.

    Attributes:
        name: its type.
        description: when it is sent and what it means.
        example: the message as JSON; None for a binary one.
    """

    name: str
    description: str
    example: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Socket:
    """What goes over a WebSocket.

    Attributes:
        sends: the caller's messages.
        receives: the service's messages.
        closes: close code to its meaning.
    """

    sends: tuple[Frame, ...]
    receives: tuple[Frame, ...]
    closes: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is written about one operation.

    Attributes:
        tag: the group that it stands in.
        summary: a few words.
        description: Markdown.
        parameters: of the query and the header; those of the path are described once for all operations.
        body: of the request.
        answers: status to answer; errors are documented once for all operations.
        socket: for operations over a WebSocket.
        when: how a request says that it means this one of two operations that share a method and path.
    """

    tag: str
    summary: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    socket: Socket | None = None
    when: str = ""


@dataclass(frozen=True, slots=True)
class Tag:
    """A group of operations."""

    name: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What is written about a provider's operations.

    Attributes:
        provider: whose operations they are, for people.
        title: of the document.
        introduction: Markdown, the document's description.
        tags: the groups, in the order in which they are shown.
        by_operation: operation name and method to its page.
        in_path: name of a path parameter to the parameter.
        schemas: the schemas that pages refer to by name.
        upstream_error: schema of the provider's own errors, which are passed on as they are.
    """

    provider: str
    title: str
    introduction: str
    tags: tuple[Tag, ...]
    by_operation: Mapping[tuple[str, str], Page]
    in_path: Mapping[str, Parameter]
    schemas: Mapping[str, Schema]
    upstream_error: Schema
