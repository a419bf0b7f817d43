"""The OpenAPI document: paths, methods and errors from their tables, joined with what is written about each operation.

Rows that share a path and method become one OpenAPI operation, as OpenAPI wants it: its parameters and bodies are those
of all of them, and its description says which request means which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keypool_asgi.core.operations import SOCKET, Operation, OperationTable
from keypool_asgi.errors import ConfigurationError

from .assemblyai import ASSEMBLYAI_PAGES
from .pages import Answer, Body, Example, Page, Pages, Parameter, Schema
from .refusals import REFUSAL, refusal_name, refusals, statuses
from .sockets import described, extension, shared_description

__all__ = ["document"]

_SECURITY_SCHEMES: dict[str, Any] = {
    "teamToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The team token that the operator gave you: `Authorization: Bearer <token>`.",
    },
    "rawToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The team token alone, as SDKs send a key: `Authorization: <token>`.",
    },
    "keyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The team token in a header of its own: `x-api-key: <token>`.",
    },
    "queryToken": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "For WebSockets in browsers, a temporary token: `?token=<token>`.",
    },
}
_HTTP_SCHEMES = ("teamToken", "rawToken", "keyHeader")
_RETIRED = "Retired"
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def document(
    table: OperationTable,
    pages: Pages = ASSEMBLYAI_PAGES,
    *,
    base: str = "/v1/assemblyai",
    version: str = "0",
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a table of operations.

    Args:
        table: the operations.
        pages: what is written about them.
        base: the pool's URL as callers see it, without a trailing slash.
        version: of the package.

    Raises:
        ConfigurationError: an operation has no page, or a page has no operation.
    """
    _check(table, pages)
    return {
        "openapi": "3.1.0",
        "info": {"title": pages.title, "version": version, "description": pages.introduction},
        "servers": [{"url": base, "description": "This pool."}],
        "tags": [{"name": tag.name, "description": tag.description} for tag in pages.tags],
        "paths": {path: _path_item(rows, pages) for path, rows in _grouped(table.operations, _path_of).items()},
        "components": {
            "securitySchemes": _SECURITY_SCHEMES,
            "responses": refusals(pages.provider),
            "schemas": {"Refusal": REFUSAL, "UpstreamError": pages.upstream_error, **pages.schemas},
        },
    }


def _check(table: OperationTable, pages: Pages) -> None:
    rows = {(row.name, row.method) for row in table.operations if not row.gone}
    if missing := rows - set(pages.by_operation):
        raise ConfigurationError(f"reference: nothing is written about {sorted(missing)}")
    if unknown := set(pages.by_operation) - rows:
        raise ConfigurationError(f"reference: there are no operations {sorted(unknown)}")


def _path_of(row: Operation) -> str:
    return row.path


def _method_of(row: Operation) -> str:
    return "get" if row.method == SOCKET else row.method.lower()


def _grouped(rows: Iterable[Operation], key: Any) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _path_item(rows: Sequence[Operation], pages: Pages) -> dict[str, Any]:
    item: dict[str, Any] = {}
    in_path = [segment[1:-1] for segment in rows[0].path.split("/") if segment.startswith("{")]
    if in_path:
        item["parameters"] = [_parameter(pages.in_path[name]) for name in in_path]
    for method, same in _grouped(rows, _method_of).items():
        item[method] = _retired(same[0]) if same[0].gone else _operation(same, pages)
    return item


def _retired(row: Operation) -> dict[str, Any]:
    return {
        "tags": [_RETIRED],
        "operationId": _identifier(row),
        "summary": "Retired",
        "description": row.gone,
        "deprecated": True,
        "security": [{}],
        "responses": _errors(statuses(gone=True, body=False)),
        "x-keypool-operations": [row.name],
    }


def _operation(rows: Sequence[Operation], pages: Pages) -> dict[str, Any]:
    found = [pages.by_operation[row.name, row.method] for row in rows]
    body = _request_body(found)
    value: dict[str, Any] = {
        "tags": [page.tag for page in found],
        "operationId": "_or_".join(_identifier(row) for row in rows),
        "summary": "; or: ".join(dict.fromkeys(page.summary for page in found)),
        "description": _description(rows, found),
        "parameters": [_parameter(parameter) for parameter in _parameters(found)],
        "security": _security(rows),
        "responses": _responses(rows, found, pages.provider),
        "x-keypool-operations": [row.name for row in rows],
    }
    if body:
        value["requestBody"] = body
    sockets = {row.name: extension(page.socket) for row, page in zip(rows, found, strict=True) if page.socket}
    return value | ({"x-websocket": sockets} if sockets else {})


def _identifier(row: Operation) -> str:
    """Unique, whatever other rows there are: some operations have several paths, or several methods."""
    path = "_".join(segment.strip("{}").replace("-", "_") for segment in row.path[1:].split("/"))
    return f"{row.name.replace('.', '_')}_{row.method.lower()}_{path}"


def _description(rows: Sequence[Operation], found: Sequence[Page]) -> str:
    parts = []
    if len(rows) > 1:
        parts.append("Two services share this path, and the request says which of them it means.")
    for row, page in zip(rows, found, strict=True):
        which = f"**{page.tag}**, {page.when}. " if len(rows) > 1 else ""
        parts += [which + described(page), f"Permission: `{row.name}`."]
    if any(page.socket for page in found):
        parts.append(shared_description())
    return "\n\n".join(parts)


def _parameters(found: Sequence[Page]) -> list[Parameter]:
    """Every parameter of the pages; one is required only if it is so in all of them."""
    by_name: dict[tuple[str, str], list[Parameter]] = {}
    for page in found:
        for parameter in page.parameters:
            by_name.setdefault((parameter.where, parameter.name), []).append(parameter)
    merged = []
    for same in by_name.values():
        required = len(same) == len(found) and all(parameter.required for parameter in same)
        first = same[0]
        merged.append(Parameter(first.name, first.schema, first.description, required, first.where, first.example))
    return merged


def _parameter(parameter: Parameter) -> dict[str, Any]:
    value = {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required or parameter.where == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }
    return value if parameter.example is None else {**value, "example": parameter.example}


def _security(rows: Sequence[Operation]) -> list[dict[str, list[str]]]:
    schemes = [{name: list[str]()} for name in _HTTP_SCHEMES]
    if any(row.method == SOCKET for row in rows):
        schemes.append({"queryToken": []})
    return [{}, *schemes] if any(row.anonymous for row in rows) else schemes


def _request_body(found: Sequence[Page]) -> dict[str, Any] | None:
    bodies = [page.body for page in found if page.body]
    if not bodies:
        return None
    return {"required": len(bodies) == len(found), "description": bodies[0].description, "content": _content(bodies)}


def _responses(rows: Sequence[Operation], found: Sequence[Page], provider: str) -> dict[str, Any]:
    answers: dict[int, list[Answer]] = {}
    for page in found:
        for status, answer in page.answers.items():
            answers.setdefault(status, []).append(answer)
    responses = {str(status): _answer(same) for status, same in sorted(answers.items())}
    if any(page.socket for page in found):
        responses["101"] = {"description": "The session is open; what goes over it is described above."}
    with_body = any(row.method in _WITH_BODY for row in rows)
    errors = _errors(statuses(gone=False, body=with_body))
    return {
        **errors,
        **responses,
        "default": {"description": f"Any other answer of {provider}'s, passed through unchanged."},
    }


def _errors(listed: Iterable[int]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{refusal_name(status)}"} for status in listed}


def _answer(same: Sequence[Answer]) -> dict[str, Any]:
    value: dict[str, Any] = {"description": " Or: ".join(dict.fromkeys(answer.description for answer in same))}
    if bodies := [body for answer in same for body in answer.bodies]:
        value["content"] = _content(bodies)
    headers = {name: {"schema": schema} for answer in same for name, schema in answer.headers.items()}
    return value | ({"headers": headers} if headers else {})


def _content(bodies: Iterable[Body]) -> dict[str, Any]:
    by_media: dict[str, list[Body]] = {}
    for body in bodies:
        by_media.setdefault(body.media, []).append(body)
    return {media: _media_type(same) for media, same in by_media.items()}


def _media_type(bodies: Sequence[Body]) -> dict[str, Any]:
    schemas: list[Schema] = []
    for body in bodies:
        if body.schema not in schemas:
            schemas.append(body.schema)
    value: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    examples: dict[str, Example] = {}
    for body in bodies:
        examples.update(body.examples)
    if examples:
        value["examples"] = {name: {"summary": each.summary, "value": each.value} for name, each in examples.items()}
    return value
