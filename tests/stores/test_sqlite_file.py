"""The SQLite file: URLs, transactions, versions of its tables, failures, event loops, forks."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from keypool_asgi.errors import ConfigurationError, NotFound, StoreUnavailable
from keypool_asgi.stores.sqlite import SCHEMA, SqliteResources
from keypool_asgi.stores.sqlite_file import APPLICATION_ID, SqliteFile, sqlite_path

FIRST = ["CREATE TABLE numbers (n INTEGER)"]


def add(number):
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,)).rowcount


def numbers(connection):
    return [row[0] for row in connection.execute("SELECT n FROM numbers ORDER BY n")]


def run(path, scenario, schema=(FIRST,), **settings):
    async def main():
        file = SqliteFile(path, schema, **settings)
        try:
            return await scenario(file)
        finally:
            await file.aclose()

    return asyncio.run(main())


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.db"


# Paths and URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///keypool.db", "keypool.db"),
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////var/lib/keypool.db", "/var/lib/keypool.db"),
        ("SQLite:////srv/a%20b%3F%23.db", "/srv/a b?#.db"),
    ],
)
def test_urls(url, path):
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "must be sqlite:///relative.db"),
        ("keypool.db", "must be sqlite:///relative.db"),
        ("redis://localhost", "must be sqlite:///relative.db"),
        ("sqlite:keypool.db", "must be sqlite:///relative.db"),
        ("sqlite://", "must be sqlite:///relative.db"),
        ("sqlite://keypool.db", "has no host"),
        ("sqlite:///", "names a file"),
        ("sqlite:///a%00b", "names a file"),
        ("sqlite:///a.db?timeout=5", "has no parameters"),
        ("sqlite:///:memory:", "leave state out"),
        ("sqlite:////", "is a folder"),
        ("sqlite:////no-such-folder/a.db", "folder that does not exist"),
    ],
)
def test_wrong_urls(url, fault):
    with pytest.raises(ConfigurationError, match=f"^state: .*{fault}"):
        SqliteResources.from_url(url)


def test_a_relative_path_stays_where_it_was(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    file = SqliteFile("a.db", (FIRST,))
    monkeypatch.chdir("/")
    assert file.path == path
    assert repr(file) == f"<SqliteFile {path}>"


# Transactions


def test_waiting_writes_share_a_transaction(path):
    async def scenario(file):
        statements = []
        await file.read(lambda connection: connection.set_trace_callback(statements.append))
        assert await asyncio.gather(*(file.write(add(number)) for number in range(300))) == [1] * 300
        assert await file.read(numbers) == list(range(300))
        assert statements.count("COMMIT") < 100
        assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT")

    run(path, scenario)


def test_only_a_durable_write_waits_for_the_disk(path):
    async def scenario(file):
        async def level():
            return await file.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0])

        await file.write(add(1), durable=False)
        assert await level() == 1
        await file.write(add(2))
        assert await level() == 2
        await asyncio.gather(*(file.write(add(number), durable=number == 5) for number in range(10)))

    run(path, scenario)


def test_a_write_that_fails_leaves_nothing_and_fails_alone(path, caplog):
    def fail(error):
        def work(connection):
            add(99)(connection)
            raise error

        return work

    async def scenario(file):
        outcomes = await asyncio.gather(
            file.write(add(1)),
            file.write(fail(ValueError("the secret data"))),
            file.write(add(2)),
            file.write(fail(NotFound("Not here."))),
            file.write(lambda connection: connection.execute("SELECT nothing")),
            file.write(add(3)),
            return_exceptions=True,
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [int, StoreUnavailable, int, NotFound, StoreUnavailable, int]
        assert await file.read(numbers) == [1, 2, 3]
        with pytest.raises(StoreUnavailable) as caught:
            await file.read(lambda _: 1 // 0)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await file.read(numbers) == [1, 2, 3]

    run(path, scenario)
    assert all(str(path) in line for line in ours(caplog))
    assert "secret" not in caplog.text


def test_a_transaction_that_sqlite_has_undone_is_done_again_without_the_culprit(path, caplog):
    async def scenario(file):
        outcomes = await asyncio.gather(
            *(file.write(add(number)) for number in range(5)),
            file.write(lambda connection: connection.execute("INSERT OR ROLLBACK INTO strict VALUES (NULL)")),
            return_exceptions=True,
        )
        assert outcomes[:5] == [1] * 5
        assert isinstance(outcomes[5], StoreUnavailable)
        assert await file.read(numbers) == list(range(5))

    run(path, scenario, schema=([*FIRST, "CREATE TABLE strict (n INTEGER NOT NULL)"],))
    assert len(ours(caplog)) == 1


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_connection_that_is_spoiled_is_replaced(path, kind):
    async def scenario(file):
        await file.write(add(1))
        for spoil in ("close", "COMMIT", "BEGIN"):
            outcomes = await asyncio.gather(
                getattr(file, kind)(lambda c, spoil=spoil: c.close() if spoil == "close" else c.execute(spoil)),
                *(file.write(add(number)) for number in (2, 3)),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} <= {int, type(None), sqlite3.Cursor, StoreUnavailable}
            with suppress(StoreUnavailable):
                await file.write(add(4))
            await file.write(add(5))
        assert 5 in await file.read(numbers)

    run(path, scenario)


def test_a_cancelled_read_is_not_begun(path):
    async def scenario(file):
        await file.open()
        begun, gate = [], threading.Event()
        blocked = asyncio.create_task(file.read(lambda _: gate.wait(10)))
        await asyncio.sleep(0.01)
        task = asyncio.create_task(file.read(lambda _: begun.append(1)))
        write = asyncio.create_task(file.write(add(1)))
        await asyncio.sleep(0)
        task.cancel()
        write.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await blocked
        assert await file.read(numbers) == [1]
        assert not begun

    run(path, scenario)


# Event loops, threads, processes


def test_event_loops_one_after_the_other_without_closing(path):
    file = SqliteFile(path, (FIRST,))
    for number in range(3):
        assert asyncio.run(file.write(add(number))) == 1
    assert asyncio.run(file.read(numbers)) == [0, 1, 2]
    asyncio.run(file.aclose())
    asyncio.run(file.aclose())


def test_closing_finishes_what_has_begun_and_ends_the_thread(path):
    async def scenario(file):
        tasks = [asyncio.create_task(file.write(add(number))) for number in range(50)]
        await asyncio.sleep(0)
        await file.aclose()
        assert await asyncio.gather(*tasks) == [1] * 50
        assert await file.read(numbers) == list(range(50))  # open again

    run(path, scenario)
    end = time.monotonic() + 5
    while any(thread.name.startswith("keypool-sqlite") for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [file.name for file in path.parent.iterdir()] == ["a.db"]


FORK = """
import asyncio, os, sys
from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.stores.sqlite import SqliteResources

store = SqliteResources(sys.argv[1])
asyncio.run(store.record(Resource(Ref("transcript", "parent"), "t", "p", 1.0)))

async def use(name):
    assert await store.find(Ref("transcript", "parent")) is not None
    await store.record(Resource(Ref("transcript", name), "t", "p", 1.0))
    await store.aclose()

child = os.fork()
if child == 0:
    asyncio.run(use("child"))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(store.find(Ref("transcript", "child")))
asyncio.run(use("parent again"))
"""


def test_a_forked_process_opens_the_file_anew(path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(path)], timeout=20, capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr


# Versions


def test_newer_tables_are_refused(path):
    run(path, SqliteFile.open, schema=(FIRST, ["CREATE TABLE more (n INTEGER)"]))
    for use in (SqliteFile.open, lambda file: file.read(numbers), lambda file: file.write(add(1))):
        with pytest.raises(ConfigurationError, match=r"a\.db was written by a newer keypool-asgi .*version 2"):
            run(path, use)


def test_older_tables_are_brought_up_to_date(path):
    run(path, lambda file: file.write(add(1)))
    newer = (FIRST, ["ALTER TABLE numbers ADD COLUMN text TEXT DEFAULT 'x'", "CREATE TABLE more (n INTEGER)"])

    async def scenario(file):
        return await file.read(lambda connection: connection.execute("SELECT n, text FROM numbers").fetchall())

    assert run(path, scenario, schema=newer) == [(1, "x")]
    assert run(path, scenario, schema=newer) == [(1, "x")]


def test_a_broken_update_leaves_the_old_tables(path):
    run(path, lambda file: file.write(add(1)))
    with pytest.raises(StoreUnavailable):
        run(path, SqliteFile.open, schema=(FIRST, ["CREATE TABLE more (n INTEGER)", "CREATE nonsense"]))
    assert run(path, lambda file: file.read(numbers)) == [1]


def test_another_programs_database_is_refused_and_left_alone(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (n INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        run(path, SqliteFile.open)
    assert path.read_bytes() == before


def test_an_empty_file_is_taken(path):
    path.touch()
    run(path, lambda file: file.write(add(1)))
    connection = sqlite3.connect(path)
    marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert marks == [APPLICATION_ID, 1]
    connection.close()


def test_the_schema_of_this_package_only_grows():
    """A released version's statements must not change: files have been made with them."""
    assert len(SCHEMA) == 3


# Failures (the rest of them is in test_sqlite_failures)


def test_a_locked_file_refuses_writes_until_it_is_free(path, caplog):
    async def scenario(file):
        await file.write(add(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable) as caught:
            await file.write(add(2))
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert await file.read(numbers) == [1]
        waiting = asyncio.create_task(file.write(add(3)))
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        other.close()
        await waiting
        assert await file.read(numbers) == [1, 3]

    run(path, scenario, busy_seconds=0.3)
    assert len(ours(caplog)) == 1
    assert (
        f"state: {path} failed, requests refused: 1: SQLITE_BUSY: database is locked; another process"
        in ours(caplog)[0]
    )
