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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
        return await self._submit(work, writes=False, durable=False)

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Return what ``work`` makes of the connection, in a transaction. It runs even if the caller is cancelled.

        Args:
            work: runs on the file's thread, and may read and write. If it raises, nothing of it remains. It is run
                again if its transaction was undone because of another's.
            durable: whether it must outlive a power failure.

        Raises:
            ConfigurationError: see ``open``.
            StoreUnavailable: the file cannot be written now.
        """
        return await self._submit(work, writes=True, durable=durable)

    async def aclose(self) -> None:
        """Finish what has begun, and close the file. The next use opens it again."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None and worker.pid == os.getpid():
            await asyncio.shield(worker.close())

    async def _submit(self, work: Work[T], *, writes: bool, durable: bool) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            worker = self._worker
            if worker is None or worker.pid != os.getpid():
                if worker is not None:
                    _FORKED.append(worker)
                worker = self._worker = _Worker(self.path, self._schema, self._busy_seconds)
            worker.submit(_Job(work, future, writes, durable))
        return await future


# What a fork brought along. SQLite forbids even closing such a connection, so they are kept.
_FORKED: list[_Worker] = []


class _Job(NamedTuple):
    work: Work[Any]
    future: asyncio.Future[Any]
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
        self._lock = threading.Lock()
        self._idle = True
        self._thread = ThreadPoolExecutor(1, "keypool-sqlite")

    def submit(self, job: _Job) -> None:
        """Take a job on. It is done together with those that are waiting when the thread comes to it."""
        with self._lock:
            self._jobs.append(job)
            wake, self._idle = self._idle, False
        if wake:
            self._thread.submit(self._drain)

    def close(self) -> asyncio.Future[None]:
        """Close the connection after every job, and end the thread."""
        closed = asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)
        return closed

    # Everything below runs on the thread.

    def _drain(self) -> None:
        while jobs := self._take():
            try:
                outcomes = self._do([job for job in jobs if job.writes or not job.future.cancelled()])
            except Exception as error:  # noqa: BLE001 - whatever it is, each caller must hear of it
                outcomes = [_Outcome(job, None, error) for job in jobs]
            self._log([outcome.error for outcome in outcomes if _is_failure(outcome.error)])
            _report(outcomes)

    def _take(self) -> list[_Job]:
        with self._lock:
            self._idle = not self._jobs
            return [self._jobs.popleft() for _ in range(min(_BATCH, len(self._jobs)))]

    def _do(self, jobs: list[_Job]) -> list[_Outcome]:
        """Do the jobs that write, then those that read, so that these see only what is committed."""
        connection = self._connect()
        outcomes = self._commit(connection, [job for job in jobs if job.writes])
        return outcomes + [_attempt(connection, job) for job in jobs if not job.writes]

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
        """Do jobs that write in one transaction; if one of them fails, in one for each."""
        try:
            outcomes = _transact(connection, jobs)
        except sqlite3.Error as error:
            _roll_back(connection)
            return [_Outcome(job, None, error) for job in jobs]
        if len(jobs) > 1 and outcomes[-1].error is not None:
            return [outcome for job in jobs for outcome in self._commit(connection, [job])]
        return outcomes

    def _log(self, failed: list[BaseException | None]) -> None:
        """Tell of what failed at one time, once."""
        if not failed:
            return
        code = _code(failed[0])
        name = getattr(failed[0], "sqlite_errorname", type(failed[0]).__name__)
        text = f"{failed[0]}; {_HINTS.get(code, 'see sqlite.org/rescode.html')}" if code else "an error in a store"
        log.error("state: %s failed, requests refused: %d: %s: %s", self._path, len(failed), name, text)
        if any(isinstance(error, sqlite3.Error) and _code(error) != sqlite3.SQLITE_BUSY for error in failed):
            self._disconnect()  # a new connection finds a file that was repaired meanwhile

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
            with suppress(sqlite3.Error):  # it is closed because it failed
                connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Bring the file up to date; several processes may be about to do it."""
        # In one transaction, so that another process does not finish its tables between two looks of ours.
        connection.execute("BEGIN")
        try:
            self._check(connection)
        finally:
            _roll_back(connection)
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
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)


class _Outcome(NamedTuple):
    job: _Job
    result: Any
    error: BaseException | None


def _report(outcomes: list[_Outcome]) -> None:
    """Let the callers resume: one call for all of an event loop, because waking it costs more than the work."""
    loops: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        loops.setdefault(outcome.job.future.get_loop(), []).append(outcome)
    for loop, theirs in loops.items():
        with suppress(RuntimeError):  # the loop is closed, so nobody is waiting
            loop.call_soon_threadsafe(_settle, theirs)


def _settle(outcomes: list[_Outcome]) -> None:
    """Give the outcomes to those who still wait for them. Runs on their event loop."""
    for job, result, error in outcomes:
        if job.future.done():
            continue
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(_refusal(error) if _is_failure(error) else error)


def _attempt(connection: sqlite3.Connection, job: _Job) -> _Outcome:
    try:
        return _Outcome(job, job.work(connection), None)
    except Exception as error:  # noqa: BLE001 - it is the caller's
        return _Outcome(job, None, error)


def _transact(connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
    """Do jobs in one transaction. The first that fails is the last, and undoes it."""
    if not jobs:
        return []
    durable = any(job.durable for job in jobs)
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    outcomes = []
    for job in jobs:
        outcomes.append(_attempt(connection, job))
        if outcomes[-1].error is not None:
            _roll_back(connection)
            return outcomes
    connection.execute("COMMIT")
    return outcomes


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _value(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _code(error: BaseException | None) -> int:
    """SQLite's primary result code of an error, 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_failure(error: BaseException | None) -> bool:
    """Whether an error is the file's, not an answer of this package's."""
    return error is not None and not isinstance(error, KeyPoolError)


def _refusal(error: BaseException) -> StoreUnavailable:
    refusal = StoreUnavailable("The service cannot check this request now, so it was refused. Try again later.")
    refusal.__cause__ = error
    return refusal
