"""Quota in a SQLite file: the contract, races of processes, and processes that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.ports import QuotaKeeper
from keypool_asgi.stores.sqlite import SqliteResources
from keypool_asgi.stores.sqlite_file import SqliteFile
from keypool_asgi.stores.sqlite_quotas import SqliteQuotas
from keypool_asgi.stores.sqlite_schema import SCHEMA
from keypool_asgi.testing.contracts import QuotaStoreContract

WORKER = str(Path(__file__).with_name("quota_worker.py"))
WORKERS = 4
ROUNDS = 200


class TestSqliteContract(QuotaStoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "quotas.db"
        self.time = 1_900_000_000.0

    def make_store(self):
        return SqliteQuotas(self.path, clock=self.now)

    async def close_store(self, store):
        await store.aclose()

    def advance(self, seconds):
        self.time += seconds

    def now(self):
        return self.time


def test_is_a_keeper(tmp_path):
    store = SqliteQuotas.from_url(f"sqlite:///{tmp_path}/quotas.db")
    assert isinstance(store, QuotaKeeper)
    assert repr(store) == f"<SqliteQuotas {tmp_path}/quotas.db>"


@pytest.mark.parametrize("seconds", [0, -1, float("inf")])
def test_permits_must_live_for_a_while(tmp_path, seconds):
    with pytest.raises(ConfigurationError, match="permit_ttl_seconds"):
        SqliteQuotas(tmp_path / "quotas.db", permit_ttl_seconds=seconds)


def test_what_is_used_outlives_the_process(tmp_path):
    """Budgets, open permits and what a job may cost are as they were when the file is opened again."""
    budget = Charge("team:a", Limit("audio_seconds", 100, per="month", time_zone="Europe/Berlin"), 40)
    at_once = Charge("team:a", Limit("streams", 1, operations=["streaming.*"]))

    async def first():
        store = SqliteQuotas(tmp_path / "quotas.db")
        assert await store.reserve("request", [budget, at_once]) is None
        assert await store.rename("request", "job", 86400)
        await store.aclose()

    async def second():
        store = SqliteQuotas(tmp_path / "quotas.db")
        assert await store.reserve("p", [at_once]) is not None
        await store.settle("job", {"audio_seconds": 70})
        await store.settle("job", {"audio_seconds": 70})
        assert await store.reserve("q", [at_once, Charge("team:a", budget.limit, 31)]) is not None
        assert await store.reserve("r", [at_once, Charge("team:a", budget.limit, 30)]) is None
        await store.aclose()

    asyncio.run(first())
    asyncio.run(second())


def test_a_larger_budget_holds_for_what_is_used_already(tmp_path):
    """The operator raises a limit in the middle of a month: nothing is forgotten."""

    async def run():
        store = SqliteQuotas(tmp_path / "quotas.db")
        assert await store.reserve("p", [Charge("team:a", Limit("cost", 100, per="month"), 100)]) is None
        larger = Limit("cost", 150, per="month")
        assert await store.reserve("q", [Charge("team:a", larger, 51)]) is not None
        assert await store.reserve("r", [Charge("team:a", larger, 50)]) is None
        await store.aclose()

    asyncio.run(run())


def test_shares_a_file_with_the_owners(tmp_path):
    async def run():
        file = SqliteFile(tmp_path / "keypool.db", SCHEMA)
        quotas, resources = SqliteQuotas(file), SqliteResources(file)
        await quotas.open()
        await resources.open()
        assert await quotas.reserve("p", [Charge("team:a", Limit("concurrency", 1))]) is None
        await quotas.aclose()
        assert await quotas.reserve("q", [Charge("team:a", Limit("concurrency", 1))]) is not None
        await file.aclose()

    asyncio.run(run())


def test_levels_that_say_nothing_are_deleted(tmp_path):
    async def run():
        clock = [1_900_000_000.0]
        file = SqliteFile(tmp_path / "quotas.db", SCHEMA)
        store = SqliteQuotas(file, clock=lambda: clock[0])
        for number in range(600):
            clock[0] += 1
            assert await store.reserve(f"p{number}", [Charge(f"team:{number}", Limit("requests", 9, "minute"))]) is None
            await store.settle(f"p{number}", {})
        count = await file.read(lambda found: found.execute("SELECT count(*) FROM quota_levels").fetchone()[0])
        assert count <= 128
        await file.aclose()

    asyncio.run(run())


# Several processes


def start(path, *arguments):
    return subprocess.Popen(
        [sys.executable, WORKER, str(path), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def tell(worker, line):
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()


def stop(workers):
    for worker in workers:
        worker.kill()
        worker.communicate()


def test_racing_processes_never_pass_a_limit(tmp_path):
    """Four processes, 30 reservations each, for a budget of 100 and for 100 at the same time: exactly 100 each."""
    workers = [start(tmp_path / "quotas.db", number, 30) for number in range(WORKERS)]
    try:
        for round_number in range(ROUNDS):
            for worker in workers:
                tell(worker, round_number)
            admitted = [int(worker.stdout.readline()) for worker in workers]
            assert sum(admitted) == 100, f"round {round_number}: {admitted}"
    finally:
        stop(workers)


def test_what_a_killed_process_held_comes_back_once(tmp_path):
    """Its slots are free after the time to live, and not before; none comes back twice."""
    path = tmp_path / "quotas.db"
    worker = start(path, 0, 7, "keep")
    tell(worker, "keep")
    assert worker.stdout.readline().strip() == "7"
    killed = time.monotonic()
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()

    async def run():
        store = SqliteQuotas(path, permit_ttl_seconds=3)
        limit = Limit("concurrency", 10)
        whole = Charge("team:keep", limit, 10)
        assert await store.reserve("mine", [Charge("team:keep", limit, 3)]) is None
        assert await store.reserve("one more", [Charge("team:keep", limit)]) is not None
        while await store.reserve("freed", [Charge("team:keep", limit, 7)]) is not None:
            assert time.monotonic() < killed + 60
            assert await store.renew("mine")
            await asyncio.sleep(0.1)
        assert time.monotonic() > killed + 2
        assert await store.reserve("one more", [Charge("team:keep", limit)]) is not None
        for permit in ("mine", "freed"):
            await store.release(permit)
        assert await store.reserve("all", [whole]) is None
        await store.aclose()

    asyncio.run(run())
