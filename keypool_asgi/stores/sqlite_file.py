"""One SQLite file that several stores, and several processes of one machine, share: thread, transactions, failures."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from keypool_asgi.errors import ConfigurationError, KeyPoolError, StoreUnavailable

__all__ = ["APPLICATION_ID", "Schema", "SqliteFile", "sqlite_path"]

log = logging.getLogger("keypool_asgi.stores")

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]

Schema = Sequence[Sequence[str]]
"""The statements that make each version of the tables out of the one before, the first one out of nothing."""

APPLICATION_ID = 0x6B_70_6F_6C
"""Marks our files (``PRAGMA application_id``), so that no other program's database is taken for one: "kpol"."""

# Jobs that share a transaction at most, so that none waits long for those behind it.
_BATCH = 256

_HINTS = {
    sqlite3.SQLITE_BUSY: "another process has kept it locked for too long; is one stopped, or a backup running?",
    sqlite3.SQLITE_CANTOPEN: "its folder must exist and be writable, because SQLite keeps files beside it",
    sqlite3.SQLITE_CORRUPT: "it is damaged; stop every process, then restore a copy, or move it away to begin anew",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk failed; it must be a local one",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file; move it away, or name another one",
    sqlite3.SQLITE_PERM: "this process has no right to it",
    sqlite3.SQLITE_READONLY: "it and its folder must be writable, because SQLite keeps files beside it",
}


def sqlite_path(url: str) -> Path:
    """Return the path in a URL: ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``, percent-encoding decoded.

    Raises:
        ConfigurationError: the URL names no file, or more than a file.
    """
    scheme, _, rest = url.partition("://")
    form = "must be sqlite:///relative.db or sqlite:////absolute/path.db"
    if scheme.lower() != "sqlite" or not rest:
        raise ConfigurationError(f"state: a SQLite URL {form}")
    if not rest.startswith("/"):
        raise ConfigurationError(f"state: a SQLite URL has no host; it {form}, with three or four slashes")
    if "?" in rest or "#" in rest:
        raise ConfigurationError(f"state: a SQLite URL has no parameters; it {form} (%3F is ?, %23 is # in a name)")
    name = unquote(rest[1:])
    if not name or "\0" in name:
        raise ConfigurationError(f"state: a SQLite URL names a file; it {form}")
    return Path(name)


class SqliteFile:
    """A SQLite file that is worked on off the event loop, by one thread with a connection of its own.

    It is opened at first use, and again after ``aclose()``; nothing in it belongs to an event loop. Any process of the
    machine may use the file at the same time, but not over a network: SQLite's WAL mode needs shared memory.

    Writes that are waiting share one transaction, so that many cost little more than one. Each of them is all or
    nothing by itself, begun with the write lock held, and committed when its caller resumes:

    - Once committed it outlives the end of the process, however sudden.
    - If it is ``durable`` it outlives a power failure too (``synchronous=FULL``, one fsync per transaction). Others
      (``synchronous=NORMAL``) may then be lost from the last durable one or checkpoint on; the file stays sound.

    Args:
        path: of the file; it is created, its folder must exist.
        schema: every version of the tables. All users of one file must give the same.
        busy_seconds: how long another process may hold the write lock before what waits for it is refused.

    Raises:
        ConfigurationError: the path is a folder, or in none, or not one.
    """

    def __init__(self, path: str | os.PathLike[str], schema: Schema, *, busy_seconds: float = 5) -> None:
        if str(path) == ":memory:":
            raise ConfigurationError("state: SQLite's memory is not shared; leave state out to keep things in memory")
        self.path = Path(path).absolute()
        if self.path.is_dir() or not self.path.parent.is_dir():
            fault = "is a folder, not a file" if self.path.is_dir() else "is in a folder that does not exist"
            raise ConfigurationError(f"state: {self.path} {fault}")
        self._schema = schema
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def __repr__(self) -> str:
        return f"<SqliteFile {self.path}>"

    async def open(self) -> None:
        """Open the file and bring its tables up to date now, instead of at first use.

        Raises:
            ConfigurationError: it is another program's database, or of a newer version of this package.
            StoreUnavailable: it cannot be used.
        """
        await self.read(lambda _: None)

    async def read(self, work: Work[T]) -> T:
        """Return what ``work`` makes of the connection. It sees every write that has returned.

        Args:
            work: runs on the file's thread, and must only read. What it raises is a ``StoreUnavailable`` to the
                caller, unless it is an error of this package.

        Raises:
            ConfigurationError: see ``open``.
            StoreUnavailable: the file cannot be read now.
        """
        future: Future[T] = Future()
        return await self._submit(_Job(work, future, writes=False, durable=False), future)

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Return what ``work`` makes of the connection, in a transaction. It runs even if the caller is cancelled.

        Args:
            work: runs on the file's thread, and may read and write. If it raises, nothing of it remains.
            durable: whether it must outlive a power failure.

        Raises:
            ConfigurationError: see ``open``.
            StoreUnavailable: the file cannot be written now.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled from here on
        return await self._submit(_Job(work, future, writes=True, durable=durable), future)

    async def aclose(self) -> None:
        """Finish what has begun, and close the file. The next use opens it again."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None and worker.pid == os.getpid():
            await asyncio.shield(asyncio.wrap_future(worker.close()))

    async def _submit(self, job: _Job, future: Future[T]) -> T:
        with self._lock:
            worker = self._worker
            if worker is None or worker.pid != os.getpid():
                if worker is not None:
                    _FORKED.append(worker)
                worker = self._worker = _Worker(self.path, self._schema, self._busy_seconds)
            worker.submit(job)
        return await asyncio.wrap_future(future)


# What a fork brought along. SQLite forbids even closing such a connection, so they are kept.
_FORKED: list[_Worker] = []


class _Job(NamedTuple):
    work: Work[Any]
    future: Future[Any]
    writes: bool
    durable: bool


class _Worker:
    """The thread, its connection, and the jobs that wait for it."""

    def __init__(self, path: Path, schema: Schema, busy_seconds: float) -> None:
        self.pid = os.getpid()
        self._path = path
        self._schema = schema
        self._busy_seconds = busy_seconds
        self._connection: sqlite3.Connection | None = None
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, "keypool-sqlite")

    def submit(self, job: _Job) -> None:
        """Take a job on. It is done together with those that are waiting when the thread comes to it."""
        self._jobs.append(job)
        self._thread.submit(self._drain)

    def close(self) -> Future[None]:
        """Close the connection after every job, and end the thread."""
        closed = self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=False)
        return closed

    # Everything below runs on the thread.

    def _drain(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(min(_BATCH, len(self._jobs)))]
        jobs = [job for job in jobs if job.writes or job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        outcomes: list[_Outcome]
        try:
            connection = self._connect()
            outcomes = self._commit(connection, [job for job in jobs if job.writes])
            outcomes += [_attempt(connection, job) for job in jobs if not job.writes]
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller must hear of it
            outcomes = [_Outcome(job, None, error) for job in jobs if not job.future.done()]
        self._report(outcomes)

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
        """Do jobs that write, in one transaction."""
        if not jobs:
            return []
        try:
            durable = any(job.durable for job in jobs)
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt_alone(connection, job) for job in jobs]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            return [_Outcome(job, None, error) for job in jobs]
        return outcomes

    def _report(self, outcomes: list[_Outcome]) -> None:
        """Let the callers resume. What failed is logged once for all of them."""
        failed = [outcome.error for outcome in outcomes if _is_failure(outcome.error)]
        if failed:
            self._log(failed[0], len(failed))
            if getattr(failed[0], "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                self._disconnect()  # a new connection finds a file that was repaired meanwhile
        for job, result, error in outcomes:
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(_refusal(error) if _is_failure(error) else error)

    def _log(self, error: BaseException | None, callers: int) -> None:
        code = getattr(error, "sqlite_errorcode", 0)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        text = f"{error}; {_HINTS.get(code & 0xFF, 'see sqlite.org/rescode.html')}" if code else "an error in a store"
        log.error("state: %s failed for %d callers: %s: %s", self._path, callers, name, text)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Bring the file up to date; several processes may be about to do it."""
        self._check(connection)
        if self._into_wal(connection) != "wal":
            raise ConfigurationError(f"state: {self._path} must be on a local disk: SQLite's WAL mode fails there")
        # The WAL file grows with one large transaction or a long reader; this cuts it back afterwards.
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        if _value(connection, "user_version") == len(self._schema):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = self._check(connection)
            for statements in self._schema[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(self._schema)}")
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def _check(self, connection: sqlite3.Connection) -> int:
        """Return the version of the tables, 0 where there are none."""
        version, mark = _value(connection, "user_version"), _value(connection, "application_id")
        if mark != APPLICATION_ID:
            if version or mark or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise ConfigurationError(f"state: {self._path} is the database of another program; name another file")
        elif version > len(self._schema):
            raise ConfigurationError(
                f"state: {self._path} was written by a newer keypool-asgi (its tables are version {version}, this one "
                f"knows {len(self._schema)}); upgrade it here, or name another file"
            )
        return version

    def _into_wal(self, connection: sqlite3.Connection) -> str:
        """Change to WAL mode; returns the mode. SQLite does not always wait for others here, so this does."""
        end = time.monotonic() + self._busy_seconds
        while True:
            try:
                return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)


class _Outcome(NamedTuple):
    job: _Job
    result: Any
    error: BaseException | None


def _attempt(connection: sqlite3.Connection, job: _Job) -> _Outcome:
    try:
        return _Outcome(job, job.work(connection), None)
    except Exception as error:  # noqa: BLE001 - it is the caller's
        return _Outcome(job, None, error)


def _attempt_alone(connection: sqlite3.Connection, job: _Job) -> _Outcome:
    """Do a job within a transaction; if it fails, undo it and nothing else."""
    connection.execute("SAVEPOINT job")
    outcome = _attempt(connection, job)
    if outcome.error is not None:
        if not connection.in_transaction and isinstance(outcome.error, sqlite3.Error):
            raise outcome.error  # SQLite has undone the whole transaction
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return outcome


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _value(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _is_failure(error: BaseException | None) -> bool:
    """Whether an error is the file's, not an answer of this package's."""
    return error is not None and not isinstance(error, KeyPoolError)


def _refusal(error: BaseException) -> StoreUnavailable:
    refusal = StoreUnavailable("The service cannot check this request now, so it was refused. Try again later.")
    refusal.__cause__ = error
    return refusal
