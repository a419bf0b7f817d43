"""The bookkeeper: written together, once, off the path; a ledger that fails; jobs; shutdown."""

from __future__ import annotations

import asyncio

import pytest
from harness import run, tasks_left

from keypool_asgi.core.usage import Selection, correction_of
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.stages import bookkeeping
from keypool_asgi.stages.bookkeeping import Bookkeeper, Settlement
from keypool_asgi.stores.ledger import MemoryLedger
from keypool_asgi.stores.sqlite_ledger import SqliteLedger
from keypool_asgi.testing.ledger_contract import NOON, ids, record

JOB = "transcripts.create:1"


class Failing(MemoryLedger):
    """A ledger that is away while ``error`` is set, and counts how often it is written to."""

    def __init__(self):
        super().__init__()
        self.error = None
        self.appends = []

    async def append(self, records):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.appends.append(len(records))
        return await super().append(records)


def settlement(job=JOB, **facts):
    given = {
        "job": job,
        "operation": "transcripts.create",
        "used": {"audio_seconds": 60},
        "request_id": "poll-1",
        "team": "team-of-row",
        "project": "project-of-row",
        "at": NOON + 30,
    }
    return Settlement(**(given | facts))


def books_of(ledger, now=NOON + 60, **settings_):
    return Bookkeeper(ledger, **({"write_seconds": 0.01, "clock": lambda: now} | settings_))


async def waited_for(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ["write_seconds", "most_waiting"])
def test_it_checks_its_settings(name):
    with pytest.raises(ConfigurationError, match=name):
        Bookkeeper(MemoryLedger(), **{name: 0})


def test_records_that_come_together_are_written_together():
    ledger = Failing()

    async def scenario():
        books = books_of(ledger)
        for number in range(300):
            books.add(record(f"r{number}"))
        assert books.waiting == 300
        assert not ledger.appends  # nothing waits for the ledger
        assert not tasks_left()
        await waited_for(lambda: not books.waiting)
        await books.aclose()

    run(scenario())
    assert ledger.appends == [256, 44]


def test_while_nothing_is_to_be_written_there_is_no_task():
    async def scenario():
        books = books_of(MemoryLedger())
        books.add(record("a"))
        await books.flush()
        await asyncio.sleep(0.05)
        assert not tasks_left()
        await books.aclose()

    run(scenario())


def test_an_orderly_end_loses_nothing():
    ledger = Failing()

    async def scenario():
        books = books_of(ledger, write_seconds=60)
        for number in range(10):
            books.add(record(f"r{number}"))
        books.settle(settlement("never begun"))
        await books.aclose()
        assert books.waiting == 0
        assert len(await ledger.page(Selection(), 99)) == 11

    run(scenario())


def test_a_ledger_that_is_away_gets_everything_when_it_is_back(monkeypatch, caplog):
    monkeypatch.setattr(bookkeeping, "_PAUSE_SECONDS", 0.02)
    ledger = Failing()

    async def scenario():
        books = books_of(ledger)
        ledger.error = StoreUnavailable("away")
        for number in range(20):
            books.add(record(f"r{number}", NOON + number))
            await asyncio.sleep(0.005)
        books.settle(settlement("r1"))
        assert books.waiting == 21
        ledger.error = None
        await waited_for(lambda: not books.waiting)
        page = await ledger.page(Selection(), 99)
        assert ids(page[1:]) == " ".join(f"r{number}" for number in range(19, -1, -1))
        await books.aclose()

    run(scenario())
    said = [one.getMessage() for one in caplog.records if one.levelname in ("ERROR", "WARNING")]
    assert said == ["usage: the ledger failed, records wait: away", "usage: the ledger is back; what waited is written"]


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(monkeypatch, caplog):
    monkeypatch.setattr(bookkeeping, "_PAUSE_SECONDS", 0.02)
    ledger = Failing()

    async def scenario():
        books = books_of(ledger, most_waiting=10)
        ledger.error = OSError("disk on fire")
        books.settle(settlement())
        for number in range(25):
            books.add(record(f"r{number:02}", NOON + number))
        await asyncio.sleep(0.03)
        assert books.waiting == 10
        ledger.error = None
        await waited_for(lambda: not books.waiting)
        await books.aclose()
        return ids(await ledger.page(Selection(operation="transcripts.get"), 99)).split()

    assert run(scenario()) == [f"r{number:02}" for number in range(24, 15, -1)]
    assert "16 records were dropped" in caplog.text
    assert "disk on fire" in caplog.text


def test_a_ledger_that_hangs_does_not_hold_the_shutdown_up(caplog):
    ledger = Failing()

    async def hang(records):
        await asyncio.sleep(3600)

    async def scenario():
        ledger.append = hang
        books = books_of(ledger, closing_seconds=0.1)
        books.add(record("a"))
        async with asyncio.timeout(5):
            await books.aclose()
        assert books.waiting == 1

    run(scenario())
    assert "1 records could not be written in time" in caplog.text


def test_it_goes_on_in_another_event_loop():
    ledger = MemoryLedger()
    books = books_of(ledger)

    async def scenario(name):
        books.add(record(name))
        await waited_for(lambda: not books.waiting)

    run(scenario("a"))
    run(scenario("b"))
    assert run(ledger.find("a"))
    assert run(ledger.find("b"))


def test_what_waited_in_a_loop_that_was_ended_is_written_in_the_next():
    ledger = MemoryLedger()
    books = books_of(ledger, write_seconds=60)

    async def begin():
        books.add(record("a"))

    run(begin())
    run(books.aclose())
    assert run(ledger.find("a"))


# Jobs


def test_a_settlement_corrects_the_record_of_the_jobs_beginning():
    """It counts for the team and the key of that, whoever has polled."""
    ledger = MemoryLedger()
    begun = record(JOB, operation="transcripts.create", team="team-a", key="k7", request_id="submit-1")

    async def scenario():
        books = books_of(ledger)
        books.settle(settlement())
        books.add(begun)  # in whatever order they come
        await books.flush()
        found = await ledger.find(correction_of(JOB))
        assert (found.team, found.key, found.project, found.corrects) == ("team-a", "k7", "project-1", JOB)
        assert (found.started, found.ended, found.request_id) == (begun.started, NOON + 30, "poll-1")
        assert found.used == {"audio_seconds": 60}
        assert not found.estimated
        await books.aclose()

    run(scenario())


def test_a_job_is_settled_once_however_often_it_is_polled():
    ledger = MemoryLedger()

    async def scenario():
        others = [books_of(ledger) for _ in range(3)]  # as many processes
        for books in others:
            books.add(record(JOB)._replace(operation="transcripts.create"))
            for number in range(5):
                books.settle(settlement(request_id=f"poll-{number}"))
            await books.aclose()
            assert books.knows(JOB)
        (total,) = await ledger.sums(Selection())
        assert total.used["audio_seconds"] == 60
        fresh = books_of(ledger)
        assert not fresh.knows(JOB)
        assert await fresh.is_settled(JOB)
        assert await fresh.is_written(JOB)
        assert not await fresh.is_settled("another")

    run(scenario())


def test_only_the_last_settled_jobs_are_remembered(monkeypatch):
    monkeypatch.setattr("keypool_asgi.stages.bookkeeping._SETTLED_JOBS", 2)

    async def scenario():
        books = books_of(MemoryLedger())
        for job in ("a", "b", "c"):
            books.settle(settlement(job=job))
        assert [books.knows(job) for job in ("a", "b", "c")] == [False, True, True]
        await books.aclose()

    run(scenario())


def test_the_record_of_the_beginning_is_waited_for_a_while(monkeypatch):
    """Another process may be about to write it."""
    monkeypatch.setattr(bookkeeping, "_SETTLING_PAUSE_SECONDS", 0.01)
    ledger, now = MemoryLedger(), NOON + 31

    async def scenario():
        books = Bookkeeper(ledger, write_seconds=0.01, clock=lambda: now)
        books.settle(settlement())
        await books.flush()
        assert books.waiting == 1
        await ledger.append([record(JOB, key="k7")])
        await waited_for(lambda: not books.waiting)
        assert (await ledger.find(correction_of(JOB))).key == "k7"
        await books.aclose()

    run(scenario())


def test_a_job_whose_beginning_is_not_known_counts_for_its_owner():
    ledger = MemoryLedger()

    async def scenario():
        books = books_of(ledger)
        books.settle(settlement(estimated=True))
        await books.flush()
        found = await ledger.find(correction_of(JOB))
        assert (found.team, found.project, found.key) == ("team-of-row", "project-of-row", None)
        assert found.estimated
        await books.aclose()

    run(scenario())


# on_usage


def test_on_usage_is_told_of_what_is_kept_once():
    told, ledger = [], MemoryLedger()

    async def scenario():
        for number in range(2):  # two processes that both see the job's end
            books = books_of(ledger, on_usage=lambda one: told.append(one.id))
            books.settle(settlement(request_id=f"poll-{number}"))
            await books.aclose()
        books = books_of(ledger, on_usage=lambda one: told.append(one.id))
        books.add(record("a"))
        await books.aclose()

    run(scenario())
    assert told == [correction_of(JOB), "a"]


def test_on_usage_may_be_async_and_may_fail(caplog):
    told, ledger = [], MemoryLedger()

    async def on_usage(one):
        await asyncio.sleep(0)
        told.append(one.id)
        if one.id == "b":
            raise ValueError("no such column")

    async def scenario():
        books = books_of(ledger, on_usage=on_usage)
        for name in "abc":
            books.add(record(name))
        await books.aclose()
        assert len(await ledger.page(Selection(), 9)) == 3

    run(scenario())
    assert told == ["a", "b", "c"]
    assert "on_usage failed for record b" in caplog.text
    assert "no such column" in caplog.text


def test_a_record_that_was_written_is_not_lost_by_a_failure_after_it(tmp_path):
    """The same batch again, after half of it was kept: nothing counts twice."""

    async def scenario():
        ledger = SqliteLedger(tmp_path / "a.db")
        await ledger.append([record("a")])
        books = books_of(ledger)
        books.add(record("a"))
        books.add(record("b"))
        await books.aclose()
        assert (await ledger.sums(Selection()))[0].used["requests"] == 2
        await ledger.aclose()

    run(scenario())
