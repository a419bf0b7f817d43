"""What a pool does with a board of the operator's own: whatever it says or fails of, no request waits for it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from harness import run, secret

from keypool_asgi.core.health import HealthPolicy, Scope, State
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.selection import Need
from keypool_asgi.core.shared_health import Bulletin, News, board_name
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.stores.pool import Pool

API = Need("api")
GOOD = Verdict(Fault.NONE)
REJECTED = Verdict(Fault.REJECTED)
KEY = UpstreamKey("a", secret("shared-a"), max_in_flight=3)
DOWN = News("n1", "other", Scope.KEY, board_name(KEY), "api", State.REJECTED, 0.0, 300.0, 1)


class Board:
    """Says what a test wants, and remembers what it was told."""

    def __init__(self, *news, in_flight=None):
        self.bulletin = Bulletin(news, in_flight or {})
        self.reports = []
        self.error = None
        self.delay = 0.0

    async def exchange(self, report):
        self.reports.append(report)
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return self.bulletin


def pool_with(board, **settings):
    return Pool([KEY], board=board, wait_seconds=0, **{"share_seconds": 0.02, **settings})


async def exchanges(board, number=3):
    """Wait for some exchanges that begin from now on."""
    wanted = len(board.reports) + number
    async with asyncio.timeout(20):
        while len(board.reports) < wanted:  # noqa: ASYNC110 - a board of a test's own
            await asyncio.sleep(0.005)


def health(pool, scope=Scope.KEY):
    return next(subject.health for subject in pool._roster.subjects() if subject.scope is scope)


async def use(pool, verdict=GOOD):
    await pool.give_back(await pool.lease(API), verdict)


def test_news_is_heard_once_although_it_seems_younger_each_time():
    async def main():
        board = Board()
        pool = pool_with(board)
        await use(pool)
        board.bulletin = Bulletin([DOWN], {})
        await exchanges(board)
        first = health(pool)
        assert (first.state, first.epoch) == (State.REJECTED, 1)
        await asyncio.sleep(0.05)
        board.bulletin = Bulletin([replace(DOWN, opens_in=900.0)], {})
        await exchanges(board)
        assert health(pool) == first
        board.bulletin = Bulletin([replace(DOWN, id="n2", opens_in=900.0)], {})
        await exchanges(board)
        assert health(pool).epoch == 2
        await pool.aclose()

    run(main())


def test_news_of_other_keys_and_services_changes_nothing():
    async def main():
        others = [replace(DOWN, name="a#0"), replace(DOWN, service="streaming"), replace(DOWN, scope=Scope.ACCOUNT)]
        pool = pool_with(board := Board(*others))
        await use(pool)
        await exchanges(board)
        assert {subject.health.state for subject in pool._roster.subjects()} == {State.ACTIVE}
        await pool.aclose()

    run(main())


def test_it_tells_what_it_finds_out_at_once():
    async def main():
        pool = pool_with(board := Board(), share_seconds=600)
        await use(pool, REJECTED)
        await exchanges(board, 1)
        news = [one for report in board.reports for one in report.news]
        assert [(one.scope, one.name, one.state) for one in news] == [(Scope.KEY, board_name(KEY), State.REJECTED)]
        assert 0 <= news[0].age < 5
        assert 0 < news[0].opens_in <= HealthPolicy().rejected_first_seconds
        await pool.aclose()

    run(main())


def test_it_tells_what_it_has_in_flight_and_when_it_leaves():
    async def main():
        pool = pool_with(board := Board())
        leases = [await pool.lease(API) for _ in range(2)]
        await exchanges(board)
        assert board.reports[-1].in_flight == {board_name(KEY): 2}
        await pool.aclose()
        assert board.reports[-1].in_flight == {}
        told = len(board.reports)
        for lease in leases:
            await pool.give_back(lease, GOOD)
        await pool.aclose()
        assert len(board.reports) == told
        assert len({report.process for report in board.reports}) == 1

    run(main())


def test_a_board_that_fails_or_hangs_holds_nobody_up(caplog):
    caplog.set_level(logging.WARNING, "keypool_asgi.pool")

    async def main():
        pool = pool_with(board := Board(in_flight={board_name(KEY): 3}))
        await use(pool)
        await exchanges(board)
        assert pool.snapshot()[0].elsewhere == 3
        board.error = ValueError("nonsense")
        await exchanges(board)
        assert pool.snapshot()[0].elsewhere == 0
        await use(pool, REJECTED)
        board.error, board.delay = None, 600
        await asyncio.sleep(0.1)
        assert health(pool).state is State.REJECTED
        board.delay = 0
        await pool.aclose()

    run(main())
    assert [record.getMessage() for record in caplog.records if "shared" in record.getMessage()] == [
        "the health of keys is not shared with other processes now: ValueError",
        "the health of keys is shared with other processes again",
    ]


def test_what_could_not_be_told_is_told_later():
    async def main():
        board = Board()
        board.error = OSError("away")
        pool = pool_with(board)
        await use(pool, REJECTED)
        await exchanges(board)
        assert all(report.news for report in board.reports[1:])
        board.error = None
        await exchanges(board)
        settled = len(board.reports)
        await exchanges(board)
        assert not [report for report in board.reports[settled:] if report.news]
        await pool.aclose()

    run(main())


def test_a_key_that_is_removed_is_not_told_of():
    class Source:
        keys = (KEY,)

        async def load(self):
            return self.keys

    async def main():
        source, board = Source(), Board()
        pool = Pool(source, board=board, wait_seconds=0, share_seconds=0.02)
        await use(pool)
        lease = await pool.lease(API)
        source.keys = (UpstreamKey("b", secret("shared-b")),)
        await pool.refresh()
        await pool.give_back(lease, REJECTED)
        await exchanges(board)
        assert not [one for report in board.reports for one in report.news]
        await pool.aclose()

    run(main())
