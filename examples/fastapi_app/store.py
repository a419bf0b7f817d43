"""Keys and teams in an SQLite file: what the pool asks, and what an operator changes.

Team tokens are kept as HMAC-SHA-256 digests under a pepper that is not in the file, so a stolen copy of the file opens
nothing. The secrets of the keys have to be presented to AssemblyAI, so they are in the file as they are, which
is made readable for its owner only. A service with a secret manager would keep references here and resolve them in
``load_keys``.

The functions are plain synchronous ones: the pool runs them in a thread, and remembers their answers for
``keys_ttl_seconds`` and ``teams_ttl_seconds``.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe

from keypool_asgi import Limit, Team, UpstreamKey

__all__ = ["Store"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    project TEXT NOT NULL,
    region TEXT NOT NULL DEFAULT 'us',
    priority INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS teams (
    id TEXT PRIMARY KEY,
    operations TEXT,              -- space-separated names or globs; NULL is all
    requests_per_minute INTEGER   -- NULL is no limit
);
CREATE TABLE IF NOT EXISTS tokens (
    digest BLOB PRIMARY KEY,
    team TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    expires_at TEXT               -- ISO 8601 with a time zone; NULL is never
);
"""


class Store:
    """One SQLite file.

    Args:
        path: the file; it is made when it is missing.
        pepper: what the digests of tokens are made with. Keep it apart from the file, and always the same.
    """

    def __init__(self, path: str | Path, *, pepper: str) -> None:
        if not pepper:
            raise ValueError("the pepper must not be empty")
        self.path = Path(path)
        self._pepper = pepper.encode()
        self.path.touch(mode=0o600)
        with self._connect() as db:
            db.executescript(SCHEMA)

    @classmethod
    def from_environment(cls) -> Store:
        """Open the file that ``KEYPOOL_DB`` names (``keypool.db``), with the pepper in ``KEYPOOL_PEPPER``."""
        path = os.environ.get("KEYPOOL_DB", "keypool.db")
        pepper = os.environ.get("KEYPOOL_PEPPER")
        if not pepper:
            raise SystemExit("KEYPOOL_PEPPER is not set: it is a long random text that digests of tokens are made with")
        return cls(path, pepper=pepper)

    # What the pool asks

    def load_keys(self) -> list[UpstreamKey]:
        """Return every key: the pool's ``keys``."""
        with self._connect() as db:
            rows = db.execute("SELECT id, secret, project, region, priority FROM keys ORDER BY id").fetchall()
        return [
            UpstreamKey(id_, secret, project=project, region=region, priority=priority)
            for id_, secret, project, region, priority in rows
        ]

    def find_team(self, token: str) -> Team | None:
        """Return the team of a token, or None when nobody has it: the pool's ``teams``."""
        query = """
            SELECT team.id, team.operations, team.requests_per_minute, tokens.expires_at
            FROM tokens JOIN teams AS team ON team.id = tokens.team WHERE tokens.digest = ?
        """
        with self._connect() as db:
            row = db.execute(query, (self._digest(token),)).fetchone()
        if row is None:
            return None
        id_, operations, per_minute, expires_at = row
        return Team(
            id_,
            operations=None if operations is None else operations.split(),
            limits=[Limit("requests", per_minute, per="minute")] if per_minute else [],
            expires_at=expires_at and datetime.fromisoformat(expires_at),
        )

    # What an operator changes

    def add_key(self, id_: str, secret: str, *, project: str, region: str = "us", priority: int = 0) -> None:
        """Add a key."""
        key = UpstreamKey(id_, secret, project=project, region=region, priority=priority)  # checks the values
        row = (key.id, secret, key.project, key.region, key.priority)
        with self._connect() as db:
            db.execute("INSERT INTO keys (id, secret, project, region, priority) VALUES (?, ?, ?, ?, ?)", row)

    def rotate_key(self, id_: str, secret: str) -> None:
        """Give a key a new secret. The pool takes it up within ``keys_ttl_seconds``, without a restart."""
        UpstreamKey(id_, secret)  # checks the values
        with self._connect() as db:
            changed = db.execute("UPDATE keys SET secret = ? WHERE id = ?", (secret, id_)).rowcount
        if not changed:
            raise LookupError(f"there is no key {id_!r}")

    def remove_key(self, id_: str) -> None:
        """Take a key out of the pool; what it is doing is finished."""
        with self._connect() as db:
            db.execute("DELETE FROM keys WHERE id = ?", (id_,))

    def add_team(
        self, id_: str, *, operations: Iterable[str] | None = None, requests_per_minute: int | None = None
    ) -> None:
        """Add a team. It can do nothing until it has a token."""
        row = (id_, None if operations is None else " ".join(operations), requests_per_minute)
        with self._connect() as db:
            db.execute("INSERT INTO teams (id, operations, requests_per_minute) VALUES (?, ?, ?)", row)

    def issue_token(self, team: str, *, token: str | None = None, expires_at: datetime | None = None) -> str:
        """Give a team a further token, and return it. This is the only time that it can be read."""
        token = token or token_urlsafe(32)
        row = (self._digest(token), team, expires_at and expires_at.astimezone(UTC).isoformat())
        with self._connect() as db:
            db.execute("INSERT INTO tokens (digest, team, expires_at) VALUES (?, ?, ?)", row)
        return token

    def revoke_token(self, token: str) -> None:
        """End a token. The pool believes an answer of before for up to ``teams_ttl_seconds``."""
        with self._connect() as db:
            db.execute("DELETE FROM tokens WHERE digest = ?", (self._digest(token),))

    def _digest(self, token: str) -> bytes:
        return hmac.digest(self._pepper, token.encode("utf-8", "surrogatepass"), "sha256")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: callers are in different threads, and a connection belongs to one."""
        with closing(sqlite3.connect(self.path, timeout=5)) as db:
            db.execute("PRAGMA foreign_keys = ON")
            with db:
                yield db
