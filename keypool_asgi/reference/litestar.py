"""The pool's operations in a Litestar app's own OpenAPI document. Importing this module needs Litestar."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import OpenAPI

from keypool_asgi.providers.assemblyai import ASSEMBLYAI

from .document import document
from .merging import merged

__all__ = ["PoolOpenAPIConfig"]


@dataclass
class PoolOpenAPIConfig(OpenAPIConfig):
    """Litestar's own configuration, and the pool's operations beside the app's.

    Attributes:
        pool_prefix: the pool's path in the app.
    """

    pool_prefix: str = field(default="/v1/assemblyai")

    def to_openapi_schema(self) -> OpenAPI:
        """Return the document that Litestar fills with the app's operations."""
        plain = super().to_openapi_schema()
        values = {each.name: getattr(plain, each.name) for each in fields(plain)}
        return _MergedOpenAPI(**values, pool_prefix=self.pool_prefix)


@dataclass
class _MergedOpenAPI(OpenAPI):
    """Litestar's document; it becomes plain data together with the pool's operations."""

    pool_prefix: str = "/v1/assemblyai"

    @property
    def _exclude_fields(self) -> set[str]:
        return {*super()._exclude_fields, "pool_prefix"}

    def to_schema(self) -> dict[str, Any]:
        """Return the document as plain data."""
        pool = document(ASSEMBLYAI.table, base=self.pool_prefix)
        return merged(super().to_schema(), pool, prefix=self.pool_prefix)
