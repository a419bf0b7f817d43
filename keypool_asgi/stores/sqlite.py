"""Owners of resources in a SQLite file: several processes of one machine share it, and it outlives them."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cachetools import TTLCache

from keypool_asgi.core.resources import CURSOR_SECONDS, RETENTION_SECONDS, Page, Ref, Resource

from .resources import check_retention
from .shelves import Place, span
from .sqlite_file import SqliteFile
from .sqlite_schema import SCHEMA
from .sqlite_store import SqliteStore

__all__ = ["CACHE_SECONDS", "SCHEMA", "SqliteResources"]

CACHE_SECONDS = 3.0
"""How long this process may still find what another one has just forgotten, and show the status that it had."""

_CACHED = 4096

# Every so many recordings, at most so many expired rows of each kind are deleted: more than can have come in between.
_PURGE_EVERY = 32
_PURGED = 64

_COLUMNS = "kind, id, team, project, created, status, summary"

# What is over its retention, but not purged yet, makes room for a new first word.
_RECORD = """
    INSERT INTO resources (kind, id, team, project, created, status, summary, recorded) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (kind, id) DO UPDATE SET team = excluded.team, project = excluded.project, created = excluded.created,
        status = excluded.status, summary = excluded.summary, recorded = excluded.recorded
    WHERE resources.recorded <= ?"""
_FIND = f"SELECT {_COLUMNS}, recorded FROM resources WHERE kind = ? AND id = ? AND recorded > ?"  # noqa: S608 - constant
_NOTE = """
    UPDATE resources SET status = :status, summary = :summary
    WHERE kind = :kind AND id = :id AND recorded > :oldest AND (status IS NOT :status OR summary <> :summary)"""
_LEAVE = """
    INSERT OR REPLACE INTO forgotten (kind, id, team, created, since)
    SELECT kind, id, team, created, ? FROM resources WHERE kind = ? AND id = ? AND recorded > ?"""
_DELETE = "DELETE FROM resources WHERE kind = ? AND id = ?"
_PLACE = """
    SELECT created, id FROM resources
    WHERE kind = :kind AND id = :id AND recorded > :oldest AND (:team IS NULL OR team = :team)
    UNION ALL
    SELECT created, id FROM forgotten
    WHERE kind = :kind AND id = :id AND since > :left AND (:team IS NULL OR team = :team)"""
_PURGE = """
    DELETE FROM resources WHERE rowid IN (
        SELECT rowid FROM resources INDEXED BY resources_by_age WHERE kind = ? AND recorded <= ? LIMIT ?)"""
_PURGE_FORGOTTEN = """
    DELETE FROM forgotten WHERE rowid IN (
        SELECT rowid FROM forgotten INDEXED BY forgotten_by_age WHERE since <= ? LIMIT ?)"""


class SqliteResources(SqliteStore):
    """Owners in a SQLite file.

    ``record`` and ``forget`` outlive a power failure once they have returned: an owner that is lost is a workflow that
    its team cannot finish. That costs an fsync, which all that wait share. A ``note`` outlives the end of the process
    only, because upstream can be asked again.

    What ``find`` has found is remembered for ``cache_seconds``, because owners never change; what it has not found is
    always looked up. So another process's ``forget`` and ``note`` may be seen that much later by ``find``, though at
    once by ``place`` and ``page``; this process's own are seen at once.

    Args:
        file: path of the file, or a ``SqliteFile`` with ``SCHEMA`` that others use too; it is then theirs to close.
        clock: returns Unix time in seconds, which all processes must agree on. Retention is measured with it, from the
            moment of recording.
        retention: kind to how long its owners are remembered, in seconds; for ever where a kind is not named. A change
            holds for what was recorded before too.
        cursor_seconds: how long the place of a forgotten resource is remembered.
        cache_seconds: how long ``find`` believes itself.

    Raises:
        ConfigurationError: a number is out of its range, or the path cannot be a file.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | SqliteFile,
        *,
        clock: Callable[[], float] = time.time,
        retention: Mapping[str, float] = RETENTION_SECONDS,
        cursor_seconds: float = CURSOR_SECONDS,
        cache_seconds: float = CACHE_SECONDS,
    ) -> None:
        check_retention(retention, cursor_seconds)
        self.retention = dict(retention)
        self.cursor_seconds = cursor_seconds
        self._clock = clock
        super().__init__(file)
        # Written on the file's thread only, in the order of its work, so that nothing outdated comes back into it.
        self._cache: TTLCache[Ref, tuple[Resource, float]] = TTLCache(_CACHED, cache_seconds, time.monotonic)
        self._lock = threading.Lock()
        self._recordings = 0

    async def record(self, resource: Resource) -> None:
        """Remember a resource, unless it is known already."""
        await self._file.write(partial(self._record, resource, self._clock()))

    async def find(self, ref: Ref) -> Resource | None:
        """Return a resource, or None when it is unknown, forgotten or over its retention."""
        with self._lock:
            cached = self._cache.get(ref)
        oldest = self._oldest(ref.kind)
        if cached is not None and cached[1] > oldest:
            return cached[0]
        return await self._file.read(partial(self._find, ref, oldest)) if _can_be_stored(ref) else None

    async def note(self, ref: Ref, status: str, summary: str) -> None:
        """Write down a job's status and summary."""
        if _can_be_stored(ref):
            await self._file.write(partial(self._note, ref, self._oldest(ref.kind), status, summary), durable=False)

    async def forget(self, ref: Ref) -> None:
        """Forget a resource but for its place."""
        if _can_be_stored(ref):
            await self._file.write(partial(self._forget, ref, self._clock()))

    async def place(self, ref: Ref, team: str | None) -> Place | None:
        """Return the place of a resource that is remembered, or was until ``cursor_seconds`` ago."""
        return await self._file.read(partial(self._place, ref, team)) if _can_be_stored(ref) else None

    async def page(self, page: Page) -> Sequence[Resource]:
        """Return a part of a list, newest first."""
        if page.limit < 1 or page.statuses == frozenset():
            return []
        query, values = _page_query(page)
        values["oldest"] = self._oldest(page.kind)
        rows = await self._file.read(lambda connection: connection.execute(query, values).fetchall())
        found = [_resource(row) for row in rows]
        return found if page.after is None else found[::-1]

    def _oldest(self, kind: str, now: float | None = None) -> float:
        """The time at and before which recordings of a kind are over their retention."""
        return (self._clock() if now is None else now) - self.retention.get(kind, math.inf)

    # Everything below runs on the file's thread.

    def _record(self, resource: Resource, now: float, connection: sqlite3.Connection) -> None:
        ref = resource.ref
        row = (ref.kind, ref.id, resource.team, resource.project, resource.created, resource.status, resource.summary)
        connection.execute(_RECORD, (*row, now, self._oldest(ref.kind, now)))
        self._recordings += 1
        if self._recordings % _PURGE_EVERY == 0:
            self._purge(connection, now)

    def _find(self, ref: Ref, oldest: float, connection: sqlite3.Connection) -> Resource | None:
        row = connection.execute(_FIND, (ref.kind, ref.id, oldest)).fetchone()
        if row is None:
            return None
        found = _resource(row[:-1])
        with self._lock:
            self._cache[ref] = (found, row[-1])
        return found

    def _note(self, ref: Ref, oldest: float, status: str, summary: str, connection: sqlite3.Connection) -> None:
        self._uncache(ref)
        values = {"kind": ref.kind, "id": ref.id, "oldest": oldest, "status": status, "summary": summary}
        connection.execute(_NOTE, values)

    def _forget(self, ref: Ref, now: float, connection: sqlite3.Connection) -> None:
        self._uncache(ref)
        connection.execute(_LEAVE, (now, ref.kind, ref.id, self._oldest(ref.kind, now)))
        connection.execute(_DELETE, (ref.kind, ref.id))

    def _place(self, ref: Ref, team: str | None, connection: sqlite3.Connection) -> Place | None:
        now = self._clock()
        values = {"kind": ref.kind, "id": ref.id, "team": team, "oldest": self._oldest(ref.kind, now)}
        found = connection.execute(_PLACE, {**values, "left": now - self.cursor_seconds}).fetchone()
        return None if found is None else (found[0], found[1])

    def _purge(self, connection: sqlite3.Connection, now: float) -> None:
        """Delete some of what has expired."""
        for kind in self.retention:
            connection.execute(_PURGE, (kind, self._oldest(kind, now), _PURGED))
        connection.execute(_PURGE_FORGOTTEN, (now - self.cursor_seconds, _PURGED))

    def _uncache(self, ref: Ref) -> None:
        with self._lock:
            self._cache.pop(ref, None)


def _page_query(page: Page) -> tuple[str, dict[str, Any]]:
    """Return the query of a page and its values, but for ``oldest``.

    Each query names the index whose order it needs, so that it fails rather than look at others' rows. Of several
    statuses, each one's part is taken by itself and then the parts are merged.
    """
    low, high = span(page)
    order = "created DESC, id DESC" if page.after is None else "created, id"
    index = "resources_of_all" if page.team is None else "resources_of_team"
    where = "kind = :kind AND recorded > :oldest"
    values: dict[str, Any] = {"kind": page.kind, "limit": page.limit}
    if page.team is not None:
        where += " AND team = :team"
        values["team"] = page.team
    if low is not None:
        where += " AND (created, id) >= (:low, :low_id)"
        values["low"], values["low_id"] = low
    if high is not None:
        where += " AND (created, id) < (:high, :high_id)"
        values["high"], values["high_id"] = high
    select = f"SELECT {_COLUMNS} FROM resources INDEXED BY {index}"  # noqa: S608 - made of constants
    end = f"ORDER BY {order} LIMIT :limit"
    if page.statuses is None:
        return f"{select} WHERE {where} {end}", values
    names = {f"status{number}": status for number, status in enumerate(sorted(page.statuses))}
    parts = (f"SELECT * FROM ({select}_by_status WHERE {where} AND status = :{name} {end})" for name in names)  # noqa: S608
    return f"{' UNION ALL '.join(parts)} {end}", values | names


def _resource(row: Sequence[Any]) -> Resource:
    kind, resource_id, team, project, created, status, summary = row
    return Resource(Ref(kind, resource_id), team, project, created, status, summary)


def _can_be_stored(ref: Ref) -> bool:
    """Whether an id is text that SQLite can hold. A caller can name one that is not; then nobody owns it."""
    try:
        ref.id.encode()
    except UnicodeEncodeError:
        return False
    return True
