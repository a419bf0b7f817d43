"""Resources in SQLite: the contract, restarts, several processes, lists by index, cache and purging."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.ports import ResourceStore
from keypool_asgi.stores.resources import resource_store
from keypool_asgi.stores.sqlite import SCHEMA, SqliteResources, _page_query
from keypool_asgi.stores.sqlite_file import SqliteFile
from keypool_asgi.testing.contracts import ResourceStoreContract

from .resource_tools import Clock, ids, transcript

A = Ref("transcript", "a")


class Contract(ResourceStoreContract):
    def __init__(self):
        self.clock = Clock()
        self.folder = None
        self.made = 0

    def make_store(self):
        self.made += 1
        return SqliteResources(self.folder / f"{self.made}.db", clock=self.clock)

    async def close_store(self, store):
        await store.aclose()

    def advance(self, seconds):
        self.clock.now += seconds


class TestContract(ResourceStoreContract):
    stories = 3
    make_store, close_store, advance = Contract.make_store, Contract.close_store, Contract.advance

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.clock, self.folder, self.made = Clock(), tmp_path, 0


@given(chance=st.randoms(use_true_random=False), steps=st.integers(1, 60), moving=st.booleans())
@settings(max_examples=15, deadline=None)
def test_it_behaves_like_a_naive_model(chance, steps, moving):
    contract = Contract()
    with tempfile.TemporaryDirectory() as folder:
        contract.folder = Path(folder)
        contract.tell(chance, steps=steps, moving=moving)


def run(path, scenario, **settings):
    """Run a scenario with a store over a file, in an event loop of its own."""

    async def main():
        store = SqliteResources(path, **settings)
        try:
            return await scenario(store)
        finally:
            await store.aclose()

    return asyncio.run(main())


# Settings


def test_it_is_a_store_of_ours(tmp_path):
    store = SqliteResources.from_url(f"sqlite:///{tmp_path}/a.db", clock=Clock())
    assert isinstance(store, ResourceStore)
    assert resource_store(store) is store
    assert repr(store) == f"<SqliteResources {tmp_path}/a.db>"
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize("wrong", [{"cursor_seconds": 0}, {"retention": {"upload": -1}}])
def test_it_checks_its_settings(tmp_path, wrong):
    with pytest.raises(ConfigurationError, match="resources: "):
        SqliteResources(tmp_path / "a.db", **wrong)


def test_several_users_of_one_file(tmp_path):
    """The file is closed by whoever made it."""

    async def scenario():
        file = SqliteFile(tmp_path / "a.db", SCHEMA)
        first, second = SqliteResources(file), SqliteResources(file)
        await first.record(transcript("a"))
        await first.aclose()
        assert file._worker is not None
        assert await second.find(A) == transcript("a")
        await file.aclose()

    asyncio.run(scenario())


# What outlives what


def test_owners_outlive_a_restart(tmp_path):
    clock = Clock()

    async def before(store):
        await store.record(transcript("a"))
        await store.record(transcript("b", created=6.0))
        await store.note(A, "completed", '{"x": 1}')
        await store.forget(Ref("transcript", "b"))

    async def after(store):
        found = await store.find(A)
        assert (found.status, found.summary) == ("completed", '{"x": 1}')
        assert await store.place(Ref("transcript", "b"), "team-a") == (6.0, "b")
        assert ids(await store.page(Page("transcript", 10))) == "a"

    run(tmp_path / "a.db", before, clock=clock)
    run(tmp_path / "a.db", after, clock=clock)
    run(tmp_path / "a.db", after, clock=clock)
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


PROCESS = """
import asyncio, sys
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.stores.sqlite import SqliteResources

async def main(path, name, count):
    store = SqliteResources(path)
    async def one(number):
        ref = Ref("transcript", f"{name}-{number}")
        await store.record(Resource(ref, name, "p", float(number), "queued"))
        print(ref.id, flush=True)
        await store.note(ref, "completed", "{}")
        await store.record(Resource(Ref("upload", f"shared-{number}"), name, "p", float(number)))
        assert (await store.find(ref)).status == "completed"
        assert (await store.page(Page("transcript", 1, team=name))) != []
    number = 0
    while number < count:
        await asyncio.gather(*(one(n) for n in range(number, number + 10)))
        number += 10
    await store.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture
def start():
    """Start a process that records so many resources of a team, and prints what it has recorded."""
    started = []

    def start(path, name, count):
        arguments = [sys.executable, "-W", "error", "-c", PROCESS, str(path), name, str(count)]
        root = Path(__file__).parents[2]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_two_processes_share_a_file_from_the_start(tmp_path, start):
    """Neither loses a write to the other, and they agree on every owner."""
    processes = [start(tmp_path / "a.db", name, 150) for name in ("p1", "p2")]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    for output, errors, status in results:
        assert (errors, status) == ("", 0)
        assert len(output.split()) == 150

    async def scenario(store):
        for name in ("p1", "p2"):
            assert len(await store.page(Page("transcript", 999, team=name))) == 150
        shared = [len(await store.page(Page("upload", 999, team=name))) for name in ("p1", "p2", None)]
        assert shared[0] + shared[1] == shared[2] == 150

    run(tmp_path / "a.db", scenario)


def test_what_was_acknowledged_outlives_kill_9(tmp_path, start):
    for round_number in range(2):
        name = f"killed-{round_number}"
        process = start(tmp_path / "a.db", name, 1_000_000)
        acknowledged = [process.stdout.readline() for _ in range(50 + 17 * round_number)]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()  # communicate() would pass over what this reader has buffered, and cut a line
        process.communicate(timeout=30)
        # The kill may have cut the last line.
        acknowledged = [line.strip() for line in [*acknowledged, *rest.splitlines(keepends=True)] if line[-1:] == "\n"]
        assert len(acknowledged) >= 50

        async def scenario(store, name=name, acknowledged=acknowledged):
            assert await store.find(Ref("transcript", "never")) is None
            for resource_id in acknowledged:
                assert (await store.find(Ref("transcript", resource_id))).team == name
            listed = {one.ref.id for one in await store.page(Page("transcript", 100_000, team=name))}
            assert listed >= set(acknowledged)
            await store.record(transcript(f"after {name}"))

        run(tmp_path / "a.db", scenario)
    connection = sqlite3.connect(tmp_path / "a.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# Cancelled callers


@pytest.mark.parametrize("steps", range(4))
def test_a_write_happens_although_its_caller_is_cancelled(tmp_path, steps):
    async def scenario(store):
        await store.record(transcript("b"))
        tasks = [asyncio.create_task(store.record(transcript(f"t{number}"))) for number in range(20)]
        tasks.append(asyncio.create_task(store.forget(Ref("transcript", "b"))))
        tasks.append(asyncio.create_task(store.find(A)))
        await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert len(await store.page(Page("transcript", 100))) == 20
        assert await store.find(Ref("transcript", "b")) is None

    run(tmp_path / "a.db", scenario)


# The cache


def test_find_believes_itself_for_a_while_only(tmp_path):
    async def scenario(store):
        other = SqliteResources(tmp_path / "a.db", cache_seconds=0.05)
        for one in (store, other):
            assert await one.find(A) is None
        await store.record(transcript("a"))
        assert await other.find(A) == transcript("a")  # what was not found is looked up again
        await store.forget(A)
        assert await store.find(A) is None
        assert await other.place(A, "team-a") == (5.0, "a")
        assert await other.page(Page("transcript", 10)) == []
        await asyncio.sleep(0.1)
        assert await other.find(A) is None
        await other.aclose()

    run(tmp_path / "a.db", scenario)


def test_find_asks_the_file_once(tmp_path):
    clock = Clock()

    async def scenario(store):
        await store.record(transcript("a"))
        assert await store.find(A) == transcript("a")
        store._file.read = None
        assert await store.find(A) == transcript("a")
        clock.now += store.retention["transcript"]
        with pytest.raises(TypeError):
            await store.find(A)

    run(tmp_path / "a.db", scenario, clock=clock)


# Lists

PAGES = [
    Page("transcript", 10, team="mine", **cursor, since=since, until=until, statuses=statuses)
    for cursor in ({}, {"before": (9000.0, "x")}, {"after": (1.0, "")})
    for since, until in ((None, None), (1.0, 9000.0))
    for statuses in (None, frozenset({"queued"}), frozenset({"queued", "error"}))
]


def filled(path, others):
    """Make a file with three rows of one team among others', newer and older ones."""
    rows = [("transcript", f"t{number}", f"team-{number % 9}", "p", number, "queued") for number in range(others)]
    rows += [("transcript", f"mine{number}", "mine", "p", 100 + number, "queued") for number in range(3)]
    asyncio.run(_opened(path))
    connection = sqlite3.connect(path)
    with connection:
        insert = "INSERT INTO resources VALUES (?, ?, ?, ?, ?, ?, '{}', 1e9)"
        connection.executemany(insert, rows)
    return connection


async def _opened(path):
    store = SqliteResources(path)
    await store.open()
    await store.aclose()


def steps_of(connection, page):
    """Count the instructions of SQLite's machine that a page takes."""
    steps = []
    connection.set_progress_handler(lambda: steps.append(1) and None, 1)
    query, values = _page_query(page)
    found = connection.execute(query, {**values, "oldest": 0}).fetchall()
    connection.set_progress_handler(None, 1)
    assert [row[1] for row in found][:: -1 if page.after else 1] in ([], ["mine2", "mine1", "mine0"])
    return len(steps)


def test_a_page_costs_what_it_shows(tmp_path):
    """Others' resources are not looked at: 50 times as many of them cost not one instruction more."""
    few, many = filled(tmp_path / "few.db", 200), filled(tmp_path / "many.db", 10_000)
    for page in PAGES:
        assert steps_of(few, page) == steps_of(many, page)
        query, values = _page_query(page)
        plan = [row[3] for row in many.execute(f"EXPLAIN QUERY PLAN {query}", {**values, "oldest": 0})]
        searches = [line for line in plan if " resources " in line]
        assert searches
        for line in searches:
            assert line.startswith("SEARCH resources USING INDEX resources_of_team")
            assert "team=?" in line
        if page.statuses is None:
            assert plan == searches  # no sorting
    few.close()
    many.close()


def test_a_page_of_everybody_is_in_the_order_of_an_index(tmp_path):
    connection = filled(tmp_path / "a.db", 10)
    query, values = _page_query(Page("transcript", 3, before=(5.0, "")))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", {**values, "oldest": 0})]
    assert len(plan) == 1
    assert "INDEX resources_of_all (kind=?" in plan[0]
    connection.close()


# Retention


def test_what_has_expired_is_purged_by_and_by(tmp_path):
    clock = Clock()

    async def scenario(store):
        async def record(prefix, count):
            await asyncio.gather(*(store.record(transcript(f"{prefix}{number}")) for number in range(count)))

        async def rows(table):
            count = f"SELECT count(*) FROM {table}"
            return await store._file.read(lambda connection: connection.execute(count).fetchone()[0])

        await record("old", 300)
        await asyncio.gather(*(store.forget(Ref("transcript", f"old{number}")) for number in range(100)))
        await store.record(Resource(Ref("agent", "kept"), "team-a", "p", 1.0))
        clock.now += store.retention["transcript"]
        assert await store.page(Page("transcript", 10)) == []
        assert await rows("resources") == 201
        await record("a", 32)
        assert 100 < await rows("resources") <= 201 + 32 - 64
        await record("b", 320)
        assert await rows("resources") == 1 + 32 + 320
        assert await rows("forgotten") == 0
        assert await store.find(Ref("agent", "kept")) is not None

    run(tmp_path / "a.db", scenario, clock=clock)


def test_a_shorter_retention_holds_for_what_was_recorded_before(tmp_path):
    clock = Clock()

    async def record(store):
        await store.record(transcript("a"))

    async def is_known(store):
        return await store.find(A) is not None

    run(tmp_path / "a.db", record, clock=clock)
    clock.now += 100
    assert run(tmp_path / "a.db", is_known, clock=clock)
    assert not run(tmp_path / "a.db", is_known, clock=clock, retention={"transcript": 100})
