"""The account in memory: the contract, and its bounds."""

from __future__ import annotations

import pytest
from harness import run

from keypool_asgi.core.usage import HOUR, Selection, correction_of
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import Ledger
from keypool_asgi.stores.ledger import GuardedLedger, MemoryLedger, ledger_store
from keypool_asgi.testing.ledger_contract import NOON, LedgerContract, ids, record


class TestContract(LedgerContract):
    def make_store(self):
        return MemoryLedger()


def test_it_is_a_ledger():
    assert isinstance(MemoryLedger(), Ledger)
    assert repr(MemoryLedger()) == "<MemoryLedger: 0 records, 0 hours>"


@pytest.mark.parametrize("name", ["most_records", "most_sums"])
def test_it_checks_its_settings(name):
    with pytest.raises(ConfigurationError, match=name):
        MemoryLedger(**{name: 0})


def test_it_keeps_the_last_records_and_all_sums():
    async def scenario():
        ledger = MemoryLedger(most_records=10)
        for number in range(100):
            await ledger.append([record(f"r{number}", NOON + number)])
        assert ids(await ledger.page(Selection(), 20)) == " ".join(f"r{number}" for number in range(99, 89, -1))
        assert (await ledger.sums(Selection()))[0].used["requests"] == 100

    run(scenario())


def test_a_settled_job_is_known_after_its_record_is_gone():
    job = "transcripts.create:1"

    async def scenario():
        ledger = MemoryLedger(most_records=1)
        settled = record(correction_of(job), used={"audio_seconds": 60}, corrects=job)
        await ledger.append([settled, record("other")])
        assert await ledger.find(settled.id) is None
        assert await ledger.knows(settled.id)
        assert await ledger.append([settled]) == []
        assert (await ledger.sums(Selection()))[0].used["audio_seconds"] == 60

    run(scenario())


def test_only_the_last_settlements_are_known_without_their_records():
    async def scenario():
        ledger = MemoryLedger(most_records=1, most_corrections=2)
        for job in ("a", "b", "c"):
            await ledger.append([record(correction_of(job), corrects=job), record(job)])
        assert [await ledger.knows(correction_of(job)) for job in ("a", "b", "c")] == [False, True, True]

    run(scenario())


def test_sums_of_the_oldest_hours_go_first():
    async def scenario():
        ledger = MemoryLedger(most_sums=10)  # each hour here has two
        await ledger.append([record(f"r{number}", NOON + number * HOUR) for number in range(20)])
        hours = [int(one.group[0]) for one in await ledger.sums(Selection(), ["hour"])]
        assert hours == [int(NOON) + number * HOUR for number in range(15, 20)]

    run(scenario())


# A user's own


class Theirs:
    """Everything in one list, as plainly as can be."""

    def __init__(self):
        self.inner = MemoryLedger()
        for verb in ("append", "find", "knows", "page", "sums", "claim"):
            setattr(self, verb, getattr(self.inner, verb))


class TestGuardedContract(LedgerContract):
    def make_store(self):
        return ledger_store(Theirs())


def test_what_keeps_the_account():
    assert isinstance(ledger_store(None), MemoryLedger)
    own = MemoryLedger()
    assert ledger_store(own) is own
    guarded = ledger_store(Theirs())
    assert isinstance(guarded, GuardedLedger)
    assert ledger_store(guarded) is guarded
    assert "GuardedLedger of <" in repr(guarded)


def test_a_ledger_without_a_verb_is_refused():
    theirs = Theirs()
    del theirs.sums
    with pytest.raises(ConfigurationError, match="Theirs has no sums"):
        ledger_store(theirs)


def test_what_a_users_ledger_fails_of_is_store_unavailable(caplog):
    theirs = Theirs()

    async def broken(record_id):
        raise OSError("disk on fire")

    theirs.find = broken
    with pytest.raises(StoreUnavailable):
        run(ledger_store(theirs).find("a"))
    assert "ledger: find failed" in caplog.text
