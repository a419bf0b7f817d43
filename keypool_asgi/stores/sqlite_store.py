"""What the stores in a SQLite file have in common: the file, by path or URL, opened and closed."""

from __future__ import annotations

import os
from typing import Any, Self

from .resources import BuiltIn
from .sqlite_file import SqliteFile, sqlite_path
from .sqlite_schema import SCHEMA

__all__ = ["SqliteStore"]


class SqliteStore(BuiltIn):
    """A store in a SQLite file.

    Args:
        file: path of the file, or a ``SqliteFile`` with ``SCHEMA`` that others use too; it is then theirs to close.
    """

    def __init__(self, file: str | os.PathLike[str] | SqliteFile) -> None:
        self._shared = isinstance(file, SqliteFile)
        self._file = file if isinstance(file, SqliteFile) else SqliteFile(file, SCHEMA)

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Self:
        """Make a store of ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``; settings as for the class.

        Raises:
            ConfigurationError: the URL is neither.
        """
        return cls(sqlite_path(url), **settings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file.path}>"

    async def open(self) -> None:
        """Open the file now; the first use does it otherwise.

        Raises:
            ConfigurationError: it is another program's database, or of a newer version of this package.
            StoreUnavailable: it cannot be used.
        """
        await self._file.open()

    async def aclose(self) -> None:
        """Finish what has begun and close the file; the next use opens it again."""
        if not self._shared:
            await self._file.aclose()
