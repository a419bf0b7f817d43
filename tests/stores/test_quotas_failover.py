"""What holds while the quota store cannot be reached: nothing, everything, or a share."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from keypool_asgi.core.limits import Charge, Limit, sentence
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import QuotaKeeper
from keypool_asgi.stores.failover_quotas import FailoverQuotas, with_failover
from keypool_asgi.stores.quotas import MemoryQuotas, QuotaCallbacks, quota_store
from keypool_asgi.stores.sqlite_quotas import SqliteQuotas
from keypool_asgi.testing.contracts import QuotaStoreContract

AT_ONCE = Limit("concurrency", 10)
PER_DAY = Limit("requests", 100, per="day")
NUMBERS = count()


class Switch:
    """A store of the user's that can be turned off."""

    def __init__(self):
        self.memory = MemoryQuotas()
        self.on = True
        self.calls = 0

    def keeper(self):
        verbs = ("reserve", "renew", "settle", "release", "rename", "levels")
        return quota_store(QuotaCallbacks(**{verb: self._verb(verb) for verb in verbs}))

    def _verb(self, name):
        async def call(*args):
            self.calls += 1
            if not self.on:
                raise OSError("no route to host")
            return await getattr(self.memory, name)(*args)

        return call


class TestFailoverContract(QuotaStoreContract):
    @pytest.fixture(autouse=True, params=[None, 0.5])
    def _share(self, request):
        self.share = request.param
        self.time = 1_800_000_000.0

    def make_store(self):
        return FailoverQuotas(MemoryQuotas(clock=self.now), share=self.share)

    def advance(self, seconds):
        self.time += seconds

    def now(self):
        return self.time


async def admitted(store, limit, wanted, subject="team:a"):
    """Of so many reservations of one unit, those that were admitted."""
    names = [f"{subject}-{next(NUMBERS)}" for _ in range(wanted)]
    return [name for name in names if await store.reserve(name, [Charge(subject, limit)]) is None]


def test_refusing_is_the_store_itself():
    store = MemoryQuotas()
    assert with_failover(store, "refuse") is store


@pytest.mark.parametrize(
    ("mode", "share"),
    [("open", None), ("share", None), ("share", 0), ("share", 1.5), ("share", -1), ("allow", 0.5), ("refuse", 0.5)],
)
def test_what_makes_no_sense_is_refused(mode, share):
    with pytest.raises(ConfigurationError, match=r"on_store_failure|quota_share"):
        with_failover(MemoryQuotas(), mode, share)


def test_everything_is_admitted_and_logged_once(caplog):
    async def run():
        switch = Switch()
        store = with_failover(switch.keeper(), "allow")
        assert isinstance(store, QuotaKeeper)
        assert len(await admitted(store, AT_ONCE, 12)) == 10
        switch.on = False
        assert len(await admitted(store, AT_ONCE, 50)) == 50
        assert store.failing
        assert store.unchecked == 50

    asyncio.run(run())
    told = [record for record in caplog.records if "cannot be reached" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize(("share", "fits"), [(0.25, 25), (1, 100), (0.001, 1)])
def test_a_share_of_each_limit_holds_here(share, fits):
    async def run():
        switch = Switch()
        store = with_failover(switch.keeper(), "share", share)
        switch.on = False
        assert len(await admitted(store, PER_DAY, 120)) == fits

    asyncio.run(run())


def test_the_caller_reads_of_the_whole_limit():
    async def run():
        switch = Switch()
        store = with_failover(switch.keeper(), "share", 0.1)
        switch.on = False
        assert await store.reserve("p", [Charge("team:a", AT_ONCE)]) is None
        denial = await store.reserve("q", [Charge("team:a", PER_DAY), Charge("team:a", AT_ONCE)])
        assert denial is not None
        assert denial.charge == Charge("team:a", AT_ONCE)
        assert sentence(denial).startswith("Limit of 10 concurrent requests is used up")

    asyncio.run(run())


def test_permits_end_where_they_were_held():
    """What was held here frees here, what was held there frees there, whichever is there when it ends."""

    async def run():
        switch, clock = Switch(), [0.0]
        store = FailoverQuotas(switch.keeper(), share=0.5, clock=lambda: clock[0])
        there = await admitted(store, AT_ONCE, 10)
        switch.on = False
        here = await admitted(store, AT_ONCE, 10)
        assert (len(there), len(here)) == (10, 5)
        assert await store.renew(here[0])
        assert await store.rename(here[1], "job", 60)
        switch.on, clock[0] = True, 10.0
        for permit in [*there, here[0], "job", *here[2:]]:
            await store.settle(permit, {})
        assert len(await admitted(store, AT_ONCE, 12)) == 10
        assert not store.failing
        switch.on = False
        assert len(await admitted(store, AT_ONCE, 12)) == 5

    asyncio.run(run())


def test_the_store_is_left_alone_for_a_while(caplog):
    async def run():
        switch, clock = Switch(), [0.0]
        store = FailoverQuotas(switch.keeper(), clock=lambda: clock[0], retry_seconds=5)
        switch.on = False
        await admitted(store, AT_ONCE, 20)
        asked = switch.calls
        assert asked <= 2  # the reservation, and its release
        clock[0] = 4.9
        await admitted(store, AT_ONCE, 1)
        assert switch.calls == asked
        switch.on, clock[0] = True, 5.0
        await admitted(store, AT_ONCE, 1)
        assert switch.calls == asked + 1
        assert not store.failing

    asyncio.run(run())
    assert sum("is back" in record.getMessage() for record in caplog.records) == 1


def test_a_file_that_cannot_be_used(tmp_path, caplog):
    """A real failure of a real store."""
    (tmp_path / "quotas.db").write_bytes(b"this is not a database, whatever its name says" * 100)

    async def run():
        store = SqliteQuotas(tmp_path / "quotas.db")
        with pytest.raises(StoreUnavailable):
            await store.reserve("p", [Charge("team:a", AT_ONCE)])
        assert len(await admitted(with_failover(store, "share", 0.5), AT_ONCE, 10)) == 5
        assert await with_failover(store, "allow").levels([Charge("team:a", AT_ONCE)]) == {}
        await store.aclose()

    asyncio.run(run())
    assert any("NOTADB" in record.getMessage() for record in caplog.records)
