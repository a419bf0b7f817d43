"""The tables of a state file, version by version. A version that was released is never changed; new ones follow."""

from __future__ import annotations

from .sqlite_file import Schema

__all__ = ["SCHEMA"]

_RESOURCES = (
    """CREATE TABLE resources (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        team TEXT NOT NULL,
        project TEXT NOT NULL,
        created REAL NOT NULL,
        status TEXT,
        summary TEXT NOT NULL,
        recorded REAL NOT NULL,
        UNIQUE (kind, id)
    )""",
    "CREATE INDEX resources_of_all ON resources (kind, created, id)",
    "CREATE INDEX resources_of_all_by_status ON resources (kind, status, created, id)",
    "CREATE INDEX resources_of_team ON resources (kind, team, created, id)",
    "CREATE INDEX resources_of_team_by_status ON resources (kind, team, status, created, id)",
    "CREATE INDEX resources_by_age ON resources (kind, recorded)",
    """CREATE TABLE forgotten (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        team TEXT NOT NULL,
        created REAL NOT NULL,
        since REAL NOT NULL,
        UNIQUE (kind, id)
    )""",
    "CREATE INDEX forgotten_by_age ON forgotten (since)",
)

# value and at: see core.reservations. idle: when a level may be forgotten; expires: when a permit does, both in Unix
# microseconds. holds: JSON, a list of [subject, the limit's spec, amount, at].
_QUOTAS = (
    """CREATE TABLE quota_levels (
        subject TEXT NOT NULL,
        name TEXT NOT NULL,
        value INTEGER NOT NULL,
        at INTEGER NOT NULL,
        idle INTEGER NOT NULL,
        PRIMARY KEY (subject, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX quota_levels_by_age ON quota_levels (idle)",
    """CREATE TABLE quota_permits (
        id TEXT NOT NULL PRIMARY KEY,
        expires INTEGER NOT NULL,
        holds TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX quota_permits_by_age ON quota_permits (expires)",
)

# records: body is JSON. totals: what core.usage.Slice says; empty text where there is no name, for a key has no NULL.
# duties: who does what only one process shall do, until when, in Unix seconds.
_USAGE = (
    """CREATE TABLE usage_records (
        id TEXT NOT NULL UNIQUE,
        team TEXT NOT NULL,
        operation TEXT NOT NULL,
        key TEXT,
        ended REAL NOT NULL,
        corrects INTEGER NOT NULL,
        body TEXT NOT NULL
    )""",
    "CREATE INDEX usage_records_of_all ON usage_records (ended, id)",
    "CREATE INDEX usage_records_of_team ON usage_records (team, ended, id)",
    "CREATE INDEX usage_records_by_age ON usage_records (corrects, ended)",
    """CREATE TABLE usage_totals (
        hour INTEGER NOT NULL,
        team TEXT NOT NULL,
        operation TEXT NOT NULL,
        key TEXT NOT NULL,
        account TEXT NOT NULL,
        project TEXT NOT NULL,
        unit TEXT NOT NULL,
        amount INTEGER NOT NULL,
        PRIMARY KEY (hour, team, operation, key, account, project, unit)
    ) WITHOUT ROWID""",
    "CREATE INDEX usage_totals_of_team ON usage_totals (team, hour)",
    """CREATE TABLE usage_duties (
        name TEXT NOT NULL PRIMARY KEY,
        holder TEXT NOT NULL,
        expires REAL NOT NULL
    ) WITHOUT ROWID""",
)

SCHEMA: Schema = (_RESOURCES, _QUOTAS, _USAGE)
"""What a ``SqliteFile`` for the stores of this package is opened with."""
