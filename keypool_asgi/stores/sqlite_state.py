"""Everything that the processes of one machine share, in one SQLite file."""

from __future__ import annotations

from .sqlite import SqliteResources
from .sqlite_file import SqliteFile, sqlite_path
from .sqlite_ledger import SqliteLedger
from .sqlite_quotas import SqliteQuotas
from .sqlite_schema import SCHEMA

__all__ = ["SqliteState"]


class SqliteState:
    """What ``state="sqlite:///..."`` stands for.

    Attributes:
        resources: who owns what.
        quotas: what is used up.
        ledger: the account.
        board: None: what processes know of keys is not worth a write each time.

    Args:
        url: ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``.

    Raises:
        ConfigurationError: it is neither.
    """

    def __init__(self, url: str) -> None:
        self._file = SqliteFile(sqlite_path(url), SCHEMA)
        self.resources = SqliteResources(self._file)
        self.quotas = SqliteQuotas(self._file)
        self.ledger = SqliteLedger(self._file)
        self.board = None

    def __repr__(self) -> str:
        return f"<SqliteState {self._file.path}>"

    async def open(self) -> None:
        """Open the file now; the first use does it otherwise.

        Raises:
            ConfigurationError: it is another program's database, or of a newer version of this package.
            StoreUnavailable: it cannot be used.
        """
        await self._file.open()

    async def aclose(self) -> None:
        """Finish what has begun and close the file; the next use opens it again."""
        await self._file.aclose()
