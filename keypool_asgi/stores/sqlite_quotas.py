"""Quota in a SQLite file: exact among the processes of one machine, and it outlives them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from cachetools import LRUCache

from keypool_asgi.core.limits import Charge, Denial, Limit, Slot
from keypool_asgi.core.reservations import Hold, Level, Levels, idle_at, reserve, settle

from .quotas import check_ttl
from .sqlite_file import SqliteFile
from .sqlite_store import SqliteStore

__all__ = ["SqliteQuotas"]

# Every so many reservations, at most so many levels that say nothing any more are deleted.
_PURGE_EVERY = 64
_PURGED = 128

# Levels that this process has seen last.
_SEEN = 4096

_FIND = "SELECT value, at FROM quota_levels WHERE subject = ? AND name = ?"
_WRITE = "INSERT OR REPLACE INTO quota_levels (subject, name, value, at, idle) VALUES (?, ?, ?, ?, ?)"
_HOLD = "INSERT INTO quota_permits (id, expires, holds) VALUES (?, ?, ?)"
_EXPIRED = "DELETE FROM quota_permits WHERE expires <= ? RETURNING holds"
_END = "DELETE FROM quota_permits WHERE id = ? RETURNING holds"
_MOVE = "UPDATE OR IGNORE quota_permits SET id = ?, expires = ? WHERE id = ?"
_PURGE = """
    DELETE FROM quota_levels WHERE (subject, name) IN (
        SELECT subject, name FROM quota_levels INDEXED BY quota_levels_by_age WHERE idle <= ? LIMIT ?)"""


class SqliteQuotas(SqliteStore):
    """Quota in a SQLite file, counted exactly over all processes that use it.

    Every verb is one transaction. It outlives the end of the process, but the last ones may be lost when the power
    fails: waiting for the disk would cost every request a millisecond or more.

    Args:
        file: path of the file, or a ``SqliteFile`` with ``SCHEMA`` that others use too; it is then theirs to close.
        clock: returns Unix time in seconds, which all processes must agree on.
        permit_ttl_seconds: how long a permit lives that is neither renewed nor ended: what a killed process occupied
            comes back after it.

    Raises:
        ConfigurationError: a number is out of its range, or the path cannot be a file.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | SqliteFile,
        *,
        clock: Callable[[], float] = time.time,
        permit_ttl_seconds: float = 120,
    ) -> None:
        check_ttl(permit_ttl_seconds)
        self.permit_ttl_seconds = permit_ttl_seconds
        self._clock = clock
        super().__init__(file)
        # Written on the event loop, when a verb has returned.
        self._seen: LRUCache[Slot, Level] = LRUCache(_SEEN)
        self._reservations = 0

    async def reserve(self, permit_id: str, charges: Sequence[Charge]) -> Denial | None:
        """Hold every charge or none of them. Repeating it while the permit is held changes nothing."""
        outcome = await self._file.write(partial(self._reserve, permit_id, tuple(charges)), durable=False)
        if isinstance(outcome, Denial):
            return outcome
        self._seen.update(outcome)
        return None

    async def renew(self, permit_id: str) -> bool:
        """Let a permit live for ``permit_ttl_seconds`` from now; False when it is not held any more."""
        return await self.rename(permit_id, permit_id, self.permit_ttl_seconds)

    async def settle(self, permit_id: str, used: Mapping[str, int]) -> None:
        """End a permit by what was used, by unit; a unit that is not named counts as it was reserved."""
        await self._file.write(partial(self._end, permit_id, dict(used)), durable=False)

    async def release(self, permit_id: str) -> None:
        """End a permit as if nothing had been used (see ``core.reservations`` for how exactly)."""
        await self._file.write(partial(self._end, permit_id, None), durable=False)

    async def rename(self, permit_id: str, new_id: str, ttl_seconds: float) -> bool:
        """Let a permit live on under another id, for ``ttl_seconds`` from now; False when that cannot be."""
        return await self._file.write(partial(self._move, permit_id, new_id, int(ttl_seconds * 1e6)), durable=False)

    async def levels(self, charges: Sequence[Charge]) -> Levels:
        """Return how the limits of these charges stand; one that is unused is left out."""
        found = await self._file.write(partial(self._read, tuple(charges)), durable=False)
        self._seen.update(found)
        return found

    def seen(self, charges: Sequence[Charge]) -> Levels:
        """Return the same as far as this process's last reservations know it."""
        seen = self._seen
        return {charge.slot: seen[charge.slot] for charge in charges if charge.slot in seen}

    # Everything below runs on the file's thread, in a transaction that holds the write lock. The time is asked for
    # there, so that it goes on in the order of the transactions, whichever process they are of.

    def _reserve(
        self, permit_id: str, charges: tuple[Charge, ...], connection: sqlite3.Connection
    ) -> dict[Slot, Level] | Denial:
        now = self._now(connection)
        if connection.execute("SELECT 1 FROM quota_permits WHERE id = ?", (permit_id,)).fetchone():
            return {}
        outcome = reserve(_found(connection, charges), charges, now)
        if isinstance(outcome, Denial):
            return outcome
        changed, holds = outcome
        _write(connection, changed)
        connection.execute(_HOLD, (permit_id, now + int(self.permit_ttl_seconds * 1e6), _dumped(holds)))
        self._reservations += 1
        if self._reservations % _PURGE_EVERY == 0:
            connection.execute(_PURGE, (now, _PURGED))
        return changed

    def _end(self, permit_id: str, used: dict[str, int] | None, connection: sqlite3.Connection) -> None:
        now = self._now(connection)
        for (holds,) in connection.execute(_END, (permit_id,)).fetchall():
            _settle(connection, _loaded(holds), used, now)

    def _move(self, permit_id: str, new_id: str, ttl: int, connection: sqlite3.Connection) -> bool:
        now = self._now(connection)
        return connection.execute(_MOVE, (new_id, now + ttl, permit_id)).rowcount > 0

    def _read(self, charges: tuple[Charge, ...], connection: sqlite3.Connection) -> dict[Slot, Level]:
        self._now(connection)
        return _found(connection, charges)

    def _now(self, connection: sqlite3.Connection) -> int:
        """Microseconds now, once everything that has expired by now is gone."""
        now = int(self._clock() * 1e6)
        for (holds,) in connection.execute(_EXPIRED, (now,)).fetchall():
            _settle(connection, _loaded(holds), {}, now)
        return now


def _found(connection: sqlite3.Connection, charges: Sequence[Charge]) -> dict[Slot, Level]:
    found: dict[Slot, Level] = {}
    for charge in charges:
        row = connection.execute(_FIND, charge.slot).fetchone()
        if row is not None:
            found[charge.slot] = (charge.limit, *row)
    return found


def _write(connection: sqlite3.Connection, levels: Levels) -> None:
    rows = [(*slot, level[1], level[2], idle_at(level)) for slot, level in levels.items()]
    connection.executemany(_WRITE, rows)


def _settle(connection: sqlite3.Connection, holds: dict[Slot, Hold], used: dict[str, int] | None, now: int) -> None:
    changed: dict[Slot, Level] = {}
    for slot, hold in holds.items():
        row = connection.execute(_FIND, slot).fetchone()
        spent = 0 if used is None else used.get(hold[0].unit, hold[1])
        changed[slot] = settle(None if row is None else (hold[0], *row), hold, spent, now)
    _write(connection, changed)


def _dumped(holds: dict[Slot, Hold]) -> str:
    return json.dumps([[slot[0], limit.spec, amount, at] for slot, (limit, amount, at) in holds.items()])


def _loaded(text: str) -> dict[Slot, Hold]:
    holds: dict[Slot, Hold] = {}
    for subject, spec, amount, at in json.loads(text):
        limit = _limit(json.dumps(spec))
        holds[subject, limit.name] = (limit, amount, at)
    return holds


@lru_cache(maxsize=1024)
def _limit(spec: str) -> Limit:
    return Limit.of(json.loads(spec))
