"""Short ways to write JSON Schemas (draft 2020-12)."""

from __future__ import annotations

from typing import Any

from .pages import Schema

__all__ = ["binary", "choice", "flag", "integer", "listed", "maybe", "number", "record", "ref", "text"]


def text(description: str = "", **keywords: Any) -> Schema:
    """A string."""
    return _schema("string", description, keywords)


def choice(description: str, *values: str, **keywords: Any) -> Schema:
    """A string of a closed set."""
    return _schema("string", description, {"enum": list(values), **keywords})


def integer(description: str = "", low: int | None = None, high: int | None = None, **keywords: Any) -> Schema:
    """An integer, with its range."""
    return _schema("integer", description, {"minimum": low, "maximum": high, **keywords})


def number(description: str = "", low: float | None = None, high: float | None = None, **keywords: Any) -> Schema:
    """A number, with its range."""
    return _schema("number", description, {"minimum": low, "maximum": high, **keywords})


def flag(description: str = "", **keywords: Any) -> Schema:
    """A boolean."""
    return _schema("boolean", description, keywords)


def listed(items: Schema, description: str = "", **keywords: Any) -> Schema:
    """An array."""
    return _schema("array", description, {"items": items, **keywords})


def record(description: str = "", /, *, required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object. What it does not name is passed on all the same, so more properties are always allowed."""
    return _schema("object", description, {"required": list(required) or None, "properties": properties or None})


def binary(description: str = "") -> Schema:
    """Bytes. ``format`` is what makes API reference pages show a file field for a part of a form."""
    return _schema("string", description, {"format": "binary"})


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **values}


def ref(name: str) -> Schema:
    """One of ``Pages.schemas``."""
    return {"$ref": f"#/components/schemas/{name}"}


def _schema(type_: str, description: str, keywords: dict[str, Any]) -> Schema:
    schema: Schema = {"type": type_}
    if description:
        schema["description"] = description
    return schema | {name: value for name, value in keywords.items() if value is not None}
