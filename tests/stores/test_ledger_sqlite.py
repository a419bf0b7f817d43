"""The account in a SQLite file: the contract, other processes, restarts, retention."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import subprocess
import sys

import pytest
from harness import run

from keypool_asgi.core.usage import HOUR, REMEMBERED_SECONDS, Selection, correction_of
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import Ledger
from keypool_asgi.stores.sqlite_file import SqliteFile
from keypool_asgi.stores.sqlite_ledger import SqliteLedger, _page_query
from keypool_asgi.stores.sqlite_schema import SCHEMA
from keypool_asgi.testing.ledger_contract import NOON, LedgerContract, ids, record

from .resource_tools import Clock

DAY = 86400.0


class TestContract(LedgerContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.paths = (tmp_path / f"{number}.db" for number in itertools.count())
        self.clock = Clock()
        self.clock.now = NOON

    def make_store(self):
        return SqliteLedger(next(self.paths), clock=self.clock)

    async def close_store(self, store):
        await store.aclose()

    def advance(self, seconds):
        self.clock.now += seconds


def test_it_is_a_ledger(tmp_path):
    ledger = SqliteLedger.from_url(f"sqlite:///{tmp_path / 'a.db'}")
    assert isinstance(ledger, Ledger)
    assert repr(ledger) == f"<SqliteLedger {tmp_path / 'a.db'}>"


def test_it_checks_its_settings(tmp_path):
    with pytest.raises(ConfigurationError, match="keep_seconds"):
        SqliteLedger(tmp_path / "a.db", keep_seconds=0)


def test_it_outlives_the_process_and_shares_its_file(tmp_path):
    """Another process has written; the file is closed by whoever opened it."""
    script = f"""
import asyncio
from keypool_asgi.stores.sqlite_ledger import SqliteLedger
from keypool_asgi.testing.ledger_contract import record
async def main():
    ledger = SqliteLedger({str(tmp_path / "a.db")!r})
    await ledger.append([record("theirs")])
    import os; os._exit(0)  # as a process that is killed: nothing is closed
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    async def scenario():
        file = SqliteFile(tmp_path / "a.db", SCHEMA)
        ledger = SqliteLedger(file)
        await ledger.open()
        await ledger.append([record("ours", NOON + 1)])
        assert ids(await ledger.page(Selection(), 5)) == "ours theirs"
        await ledger.aclose()
        assert await ledger.find("theirs") is not None
        await file.aclose()

    run(scenario())


def test_a_file_of_the_version_before_is_taken_over(tmp_path):
    path = tmp_path / "a.db"

    async def scenario():
        old = SqliteFile(path, SCHEMA[:2])
        await old.open()
        await old.aclose()
        ledger = SqliteLedger(path)
        await ledger.append([record("a")])
        await ledger.aclose()

    run(scenario())
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(SCHEMA)
    connection.close()


def test_old_records_and_sums_go_but_not_what_was_settled(tmp_path):
    clock = Clock()
    clock.now = NOON
    job = "transcripts.create:1"

    async def scenario():
        ledger = SqliteLedger(tmp_path / "a.db", clock=clock, keep_seconds=10 * DAY)
        settled = record(correction_of(job), used={"audio_seconds": 60}, corrects=job)
        await ledger.append([settled, *(record(f"old{number}") for number in range(20))])
        clock.now += 11 * DAY
        await ledger.append([record("new", clock.now), record("newer", clock.now)])
        await ledger.append([record("newest", clock.now)])
        assert ids(await ledger.page(Selection(), 50)).split() == ["newest", "newer", "new", settled.id]
        (total,) = await ledger.sums(Selection())
        assert total.used["requests"] == 3
        assert "audio_seconds" not in total.used
        assert await ledger.append([record(settled.id, clock.now, corrects=job)]) == []
        clock.now += REMEMBERED_SECONDS
        await ledger.append([record("last", clock.now)])
        assert await ledger.find(settled.id) is None
        await ledger.aclose()

    run(scenario())


def test_a_failure_keeps_nothing_of_the_records(tmp_path):
    """One of them cannot be written down: none of that call is, and the sums do not have it either."""

    async def scenario():
        ledger = SqliteLedger(tmp_path / "a.db")
        broken = record("b", used={"requests": 2**70})
        with pytest.raises(StoreUnavailable):
            await ledger.append([record("a"), broken])
        assert await ledger.find("a") is None
        assert list(await ledger.sums(Selection())) == []
        await ledger.append([record("a")])
        assert (await ledger.sums(Selection()))[0].used["requests"] == 1
        await ledger.aclose()

    run(scenario())


@pytest.mark.parametrize("selection", [Selection(), Selection(team="t", since=NOON, until=NOON + HOUR)])
def test_pages_are_read_in_the_order_of_an_index(tmp_path, selection):
    path = tmp_path / "a.db"

    async def scenario():
        ledger = SqliteLedger(path)
        await ledger.open()
        await ledger.aclose()

    run(scenario())
    query, values = _page_query(selection, 5, (NOON, "x"))
    with sqlite3.connect(path) as connection:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values))
    connection.close()
    assert "TEMP B-TREE" not in plan, plan
    assert "SEARCH" in plan, plan


def test_many_processes_settle_a_job_once(tmp_path):
    """Four ledgers on one file, each in an event loop's task of its own."""
    job = "transcripts.create:1"

    async def scenario():
        ledgers = [SqliteLedger(tmp_path / "a.db") for _ in range(4)]
        found = [
            record(correction_of(job), request_id=f"r{number}", used={"audio_seconds": 9}, corrects=job)
            for number in range(4)
        ]
        kept = await asyncio.gather(*(ledger.append([one]) for ledger, one in zip(ledgers, found, strict=True)))
        assert sum(map(len, kept)) == 1
        assert (await ledgers[0].sums(Selection()))[0].used["audio_seconds"] == 9
        for ledger in ledgers:
            await ledger.aclose()

    run(scenario())
