"""The account in a SQLite file: several processes of one machine share it, and it outlives them."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from keypool_asgi.core.usage import (
    HOUR,
    REMEMBERED_SECONDS,
    Place,
    Selection,
    Slice,
    UsageRecord,
    UsageSum,
    check_dimensions,
    record_of,
    slices,
    summed,
    text_of,
)

from .ledger import KEEP_SECONDS, check_keeping
from .sqlite_file import SqliteFile
from .sqlite_store import SqliteStore

__all__ = ["SqliteLedger"]

# With every append so many more rows that have expired may go than have come, so that they do not pile up.
_PURGED = 16

_FIND = "SELECT body FROM usage_records WHERE id = ?"
_INSERT = (
    "INSERT OR IGNORE INTO usage_records (id, team, operation, key, ended, corrects, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_ADD = """
    INSERT INTO usage_totals (hour, team, operation, key, account, project, unit, amount)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"""
_PURGE = """
    DELETE FROM usage_records WHERE rowid IN (
        SELECT rowid FROM usage_records INDEXED BY usage_records_by_age WHERE corrects = ? AND ended <= ? LIMIT ?)"""
_PURGE_TOTALS = "DELETE FROM usage_totals WHERE hour <= ?"
_CLAIM = """
    INSERT INTO usage_duties (name, holder, expires) VALUES (:duty, :holder, :until)
    ON CONFLICT DO UPDATE SET holder = excluded.holder, expires = excluded.expires
    WHERE holder = excluded.holder OR expires <= :now"""


class SqliteLedger(SqliteStore):
    """The account in a SQLite file.

    What ``append`` has kept outlives a power failure once it has returned; all records of one call, and of those that
    wait at the same time, share one fsync. A record takes about 1 KB of the file.

    Args:
        file: path of the file, or a ``SqliteFile`` with ``SCHEMA`` that others use too; it is then theirs to close.
        clock: returns Unix time in seconds, which all processes must agree on.
        keep_seconds: how long records and sums are kept. That a job was settled is remembered for 100 days at least.

    Raises:
        ConfigurationError: a number is out of its range, or the path cannot be a file.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | SqliteFile,
        *,
        clock: Callable[[], float] = time.time,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        check_keeping(keep_seconds)
        self.keep_seconds = keep_seconds
        self._clock = clock
        super().__init__(file)
        self._purged_hour = 0  # of the last time that sums were looked through

    async def append(self, records: Sequence[UsageRecord]) -> Sequence[UsageRecord]:
        """Keep records that are not known yet, all of them or none. Returns those that are kept as they were given."""
        return await self._file.write(partial(self._append, tuple(records)))

    async def find(self, record_id: str) -> UsageRecord | None:
        """Return a record, or None when there is none any more."""
        row = await self._file.read(lambda connection: connection.execute(_FIND, (record_id,)).fetchone())
        return None if row is None else record_of(row[0])

    async def knows(self, record_id: str) -> bool:
        """Whether a record of this id has been kept."""
        return await self._file.read(lambda connection: connection.execute(_FIND, (record_id,)).fetchone()) is not None

    async def page(self, selection: Selection, limit: int, before: Place | None = None) -> Sequence[UsageRecord]:
        """Return the newest records of a selection."""
        query, values = _page_query(selection, limit, before)
        rows = await self._file.read(lambda connection: connection.execute(query, values).fetchall())
        return [record_of(row[0]) for row in rows]

    async def sums(self, selection: Selection, by: Sequence[str] = ()) -> Sequence[UsageSum]:
        """Return what was used in all."""
        check_dimensions(by)
        query, values = _sums_query(selection, by)
        rows = await self._file.read(lambda connection: connection.execute(query, values).fetchall())
        return summed(((Slice(*row[:-1]), row[-1]) for row in rows), by)

    async def claim(self, duty: str, holder: str, seconds: float) -> bool:
        """Take on a duty, or keep it. Returns whether it is the holder's."""
        return await self._file.write(partial(self._claim, duty, holder, seconds), durable=False)

    # Everything below runs on the file's thread.

    def _append(self, records: tuple[UsageRecord, ...], connection: sqlite3.Connection) -> list[UsageRecord]:
        kept: list[UsageRecord] = []
        amounts: Counter[Slice] = Counter()
        for record in records:
            text = text_of(record)
            if _insert(connection, record, text):
                kept.append(record)
                amounts.update(slices(record))
            elif connection.execute(_FIND, (record.id,)).fetchone()[0] == text:
                kept.append(record)
        connection.executemany(_ADD, [(*one, amount) for one, amount in amounts.items()])
        self._purge(connection, len(records) + _PURGED)
        return kept

    def _claim(self, duty: str, holder: str, seconds: float, connection: sqlite3.Connection) -> bool:
        now = self._clock()
        values = {"duty": duty, "holder": holder, "until": now + seconds, "now": now}
        return connection.execute(_CLAIM, values).rowcount > 0

    def _purge(self, connection: sqlite3.Connection, most: int) -> None:
        oldest = self._clock() - self.keep_seconds
        connection.execute(_PURGE, (0, oldest, most))
        connection.execute(_PURGE, (1, min(oldest, self._clock() - REMEMBERED_SECONDS), most))
        hour = int(oldest // HOUR) * HOUR
        if hour != self._purged_hour:
            connection.execute(_PURGE_TOTALS, (hour - HOUR,))
            self._purged_hour = hour


def _insert(connection: sqlite3.Connection, record: UsageRecord, text: str) -> bool:
    """Write a record down, unless one of its id is there. Returns whether it was."""
    corrects = int(record.corrects is not None)
    row = (record.id, record.team, record.operation, record.key, record.ended, corrects, text)
    return connection.execute(_INSERT, row).rowcount > 0


def _page_query(selection: Selection, limit: int, before: Place | None) -> tuple[str, dict[str, Any]]:
    """Return the query of a page and its values. It names the index whose order it needs."""
    index = "usage_records_of_all" if selection.team is None else "usage_records_of_team"
    where, values = _conditions(selection, "ended")
    values["limit"] = max(0, limit)
    if before is not None:
        where.append("(ended, id) < (:ended, :id)")
        values["ended"], values["id"] = before
    text = " AND ".join(where) or "TRUE"
    query = f"SELECT body FROM usage_records INDEXED BY {index} WHERE {text}"  # noqa: S608 - made of constants
    return f"{query} ORDER BY ended DESC, id DESC LIMIT :limit", values


def _sums_query(selection: Selection, by: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the query of sums; what is not asked for is added up there, so that little comes back."""
    selection.hours()
    where, values = _conditions(selection, "hour")
    wanted = {"hour" if dimension == "day" else dimension for dimension in by}
    names = [name if name in wanted else ("0" if name == "hour" else "''") for name in Slice._fields[:-1]]
    groups = ", ".join([*sorted(wanted), "unit"])
    text = " AND ".join(where) or "TRUE"
    query = f"SELECT {', '.join(names)}, unit, SUM(amount) FROM usage_totals WHERE {text}"  # noqa: S608 - as above
    return f"{query} GROUP BY {groups}", values


def _conditions(selection: Selection, time_column: str) -> tuple[list[str], dict[str, Any]]:
    where: list[str] = []
    values: dict[str, Any] = {}
    for name in ("team", "operation", "key"):
        if getattr(selection, name) is not None:
            where.append(f"{name} = :{name}")
            values[name] = getattr(selection, name)
    if selection.since is not None:
        where.append(f"{time_column} >= :since")
        values["since"] = selection.since
    if selection.until is not None:
        where.append(f"{time_column} < :until")
        values["until"] = selection.until
    return where, values
