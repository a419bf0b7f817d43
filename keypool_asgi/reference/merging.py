"""Putting the pool's operations into the host app's own OpenAPI document.

FastAPI::

    app.openapi = with_pool(app.openapi)

Litestar::

    Litestar(..., openapi_config=keypool_asgi.reference.litestar.PoolOpenAPIConfig(title="Notes", version="1"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keypool_asgi.core.operations import OperationTable
from keypool_asgi.providers.assemblyai import ASSEMBLYAI

from .assemblyai import ASSEMBLYAI_PAGES
from .document import document
from .pages import Pages

__all__ = ["merged", "with_pool"]

_POINTER = "#/components/"


def with_pool(
    openapi: Callable[[], dict[str, Any]],
    *,
    prefix: str = "/v1/assemblyai",
    table: OperationTable = ASSEMBLYAI.table,
    pages: Pages = ASSEMBLYAI_PAGES,
) -> Callable[[], dict[str, Any]]:
    """Return a function that returns what ``openapi()`` does and the pool's operations.

    Args:
        openapi: returns the host's document; called each time, for it may grow.
        prefix: the pool's path in the host app.
        table: the pool's operations.
        pages: what is written about them.
    """
    pool = document(table, pages, base=prefix)
    return lambda: merged(openapi(), pool, prefix=prefix, namespace=pages.provider)


def merged(
    host: Mapping[str, Any],
    pool: Mapping[str, Any],
    *,
    prefix: str = "/v1/assemblyai",
    namespace: str = ASSEMBLYAI_PAGES.provider,
) -> dict[str, Any]:
    """Return the host's document with the pool's operations; neither is changed.

    The names of the pool's components and operations get a namespace, so that none of the host's is overwritten.

    Args:
        host: an OpenAPI 3.1 document.
        pool: what ``document`` returned.
        prefix: the pool's path in the host app.
        namespace: what those names begin with.
    """
    renamed = _renamed(pool, namespace)
    paths = {prefix + path: _named(item, namespace) for path, item in renamed["paths"].items()}
    components = {kind: dict(values) for kind, values in (host.get("components") or {}).items()}
    for kind, values in renamed["components"].items():
        components.setdefault(kind, {}).update({f"{namespace}.{name}": value for name, value in values.items()})
    return {
        **host,
        "tags": [*(host.get("tags") or []), *renamed["tags"]],
        "paths": {**(host.get("paths") or {}), **paths},
        "components": components,
    }


def _renamed(value: Any, namespace: str) -> Any:
    """The same with the namespace in every reference to a component or a security scheme."""
    if isinstance(value, Mapping):
        return {name: _renamed_member(name, member, namespace) for name, member in value.items()}
    return [_renamed(item, namespace) for item in value] if isinstance(value, list) else value


def _renamed_member(name: str, member: Any, namespace: str) -> Any:
    if name == "$ref" and isinstance(member, str) and member.startswith(_POINTER):
        kind, _, component = member.removeprefix(_POINTER).partition("/")
        return f"{_POINTER}{kind}/{namespace}.{component}"
    if name == "security" and isinstance(member, list):
        return [{f"{namespace}.{scheme}": scopes for scheme, scopes in each.items()} for each in member]
    return _renamed(member, namespace)


def _named(item: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    return {name: _named_operation(member, namespace.lower()) for name, member in item.items()}


def _named_operation(member: Any, namespace: str) -> Any:
    return {**member, "operationId": f"{namespace}_{member['operationId']}"} if "operationId" in member else member
