"""One timer for many: it visits, it rests, and it outlives an event loop."""

from __future__ import annotations

import asyncio

from faults.rig import until
from harness import run

from keypool_asgi.errors import StoreUnavailable
from keypool_asgi.stages.ticker import Ticker, renewing


def test_visits_what_is_there_and_rests_when_nothing_is():
    async def scenario():
        visits = []
        ticker = Ticker(0.01, visits.append)
        assert ticker._timer is None
        ticker.add("a")
        ticker.add("b")
        ticker.discard("a")
        ticker.discard("nobody")
        await until(lambda: len(visits) >= 3)
        ticker.discard("b")
        await asyncio.sleep(0.03)
        seen = len(visits)
        await asyncio.sleep(0.03)
        assert len(visits) == seen
        assert visits == [["b"]] * seen
        assert ticker._timer is None
        ticker.add("c")
        await until(lambda: visits[-1] == ["c"])
        ticker.discard("c")
        await asyncio.sleep(0.02)

    run(scenario())


def test_an_event_loop_that_ended_leaves_nothing_to_visit():
    visits = []
    ticker = Ticker(0.01, visits.append)

    async def first():
        ticker.add("lost")

    async def second():
        ticker.add("new")
        await until(lambda: visits)
        ticker.discard("new")

    asyncio.run(first())
    asyncio.run(second())
    assert visits[0] == ["new"]


class Store:
    def __init__(self):
        self.renewed = []
        self.going = asyncio.Event()

    async def renew(self, permit_id):
        self.renewed.append(permit_id)
        await self.going.wait()
        if permit_id == "bad":
            raise StoreUnavailable("gone")
        return True


def test_renewals_do_not_overlap_and_outlive_a_store_that_fails():
    async def scenario():
        store = Store()
        ticker = renewing(store, 0.01)
        names = ["bad", *(f"p{number}" for number in range(99))]
        for name in names:
            ticker.add(name)
        await asyncio.sleep(0.06)
        assert store.renewed == names[:64]
        store.going.set()
        await until(lambda: len(store.renewed) >= 300)
        assert store.renewed[:100] == names
        for name in names:
            ticker.discard(name)
        await asyncio.sleep(0.05)

    run(scenario())
