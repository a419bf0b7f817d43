"""What a ``QuotaStore`` must do with calendar windows, jobs and forecasts; a part of ``quota_contract``.

What needs a verb of ``QuotaKeeper`` is skipped where the store has none. To check those of a user's object, pass it
through ``quota_store`` or give it all of them.
"""

# ruff: noqa: S101 - the asserts are the contract

from __future__ import annotations

import random
import time
from typing import Any
from unittest import SkipTest

from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.core.reservations import standing
from keypool_asgi.ports import QuotaKeeper, QuotaStore
from keypool_asgi.stores.quotas import MemoryQuotas

from .store_contract import StoreContract

__all__ = ["AT_ONCE", "PER_HOUR", "QuotaKeeperContract"]

# An hour is so long that nothing drains while a test runs on a real clock.
PER_HOUR = Limit("requests", 3, per="hour")
PER_MONTH = Limit("audio_seconds", 100, per="month")
AT_ONCE = Limit("concurrency", 2)


class QuotaKeeperContract(StoreContract):
    """The part of the contract that is about windows, jobs and what is left.

    Attributes:
        permit_ttl_seconds: how long the store that ``make_store`` makes lets a permit live.
    """

    permit_ttl_seconds: float = 120

    def now(self) -> float:
        """Return the Unix time of the store's clock, in seconds. Override it together with ``advance``."""
        return time.time()

    # Budgets

    def test_a_budget_is_settled_exactly(self) -> None:
        """Less gives the rest back whenever it is settled; more is charged, beyond the limit if need be."""

        async def scenario(store: QuotaStore) -> None:
            def charge(amount: int) -> list[Charge]:
                return [Charge("team:a", PER_MONTH, amount)]

            assert await store.reserve("p0", charge(60)) is None
            assert await store.reserve("p1", charge(41)) is not None
            await store.settle("p0", {"audio_seconds": 20})
            assert await store.reserve("p2", charge(80)) is None
            await store.release("p2")
            assert await store.reserve("p3", charge(1)) is None
            await store.settle("p3", {"audio_seconds": 85})
            denial = await store.reserve("p4", charge(1))
            assert denial is not None
            assert denial.retry_after is not None
            assert 0 < denial.retry_after <= 31 * 86400

        self.run_with_store(scenario)

    def test_a_budget_begins_anew(self) -> None:
        """When its window is over everything is back, and what was open then neither counts nor gives back any more."""

        async def scenario(store: QuotaStore) -> None:
            whole = [Charge("team:a", PER_MONTH, 100)]
            assert await store.reserve("p0", [Charge("team:a", PER_MONTH, 60)]) is None
            assert await store.reserve("p1", [Charge("team:a", PER_MONTH, 40)]) is None
            denial = await store.reserve("p2", whole)
            assert denial is not None
            assert denial.retry_after is not None
            await self._keep_for_months(store, "p0", "p1")
            self.advance(denial.retry_after - 1)
            assert await store.reserve("p2", whole) is not None
            self.advance(1.01)
            assert await store.reserve("p3", whole) is None
            await store.release("p0 kept")
            await store.settle("p1 kept", {"audio_seconds": 10})
            assert await store.reserve("p4", [Charge("team:a", PER_MONTH, 1)]) is not None

        self.run_with_store(scenario)

    def test_what_is_owed_counts_where_it_is_known(self) -> None:
        """More than was held in a window that is over is charged to the one that is now."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p0", [Charge("team:a", PER_MONTH, 100)]) is None
            denial = await store.reserve("p1", [Charge("team:a", PER_MONTH, 1)])
            assert denial is not None
            assert denial.retry_after is not None
            await self._keep_for_months(store, "p0")
            self.advance(denial.retry_after + 1)
            await store.settle("p0 kept", {"audio_seconds": 130})
            assert await store.reserve("p2", [Charge("team:a", PER_MONTH, 71)]) is not None
            assert await store.reserve("p3", [Charge("team:a", PER_MONTH, 70)]) is None

        self.run_with_store(scenario)

    async def _keep_for_months(self, store: QuotaStore, *permits: str) -> None:
        for permit in permits:
            assert await _keeper(store).rename(permit, f"{permit} kept", 62 * 86400)

    # Jobs: figures that come later

    def test_a_renamed_permit_is_settled_once(self) -> None:
        """Under its new id only, once, and by its figure."""

        async def scenario(store: QuotaStore) -> None:
            keeper = _keeper(store)
            assert await keeper.reserve("request", [Charge("team:a", PER_MONTH, 10)]) is None
            assert await keeper.rename("request", "job", 86400)
            assert not await keeper.rename("request", "another", 86400)
            await keeper.settle("request", {"audio_seconds": 100})
            for _ in range(3):
                await keeper.settle("job", {"audio_seconds": 30})
            assert await keeper.reserve("p", [Charge("team:a", PER_MONTH, 71)]) is not None
            assert await keeper.reserve("q", [Charge("team:a", PER_MONTH, 70)]) is None

        self.run_with_store(scenario)

    def test_a_renamed_permit_takes_no_others_place(self) -> None:
        """An id that is held already stays what it is, and so does the permit that was to take it."""

        async def scenario(store: QuotaStore) -> None:
            keeper = _keeper(store)
            assert await keeper.reserve("p", [Charge("team:a", AT_ONCE)]) is None
            assert await keeper.reserve("q", [Charge("team:a", AT_ONCE)]) is None
            assert not await keeper.rename("p", "q", 60)
            assert await keeper.reserve("r", [Charge("team:a", AT_ONCE)]) is not None
            await keeper.release("p")
            await keeper.release("q")
            assert await keeper.reserve("s", [Charge("team:a", AT_ONCE, 2)]) is None

        self.run_with_store(scenario)

    def test_a_renamed_permit_lives_as_long_as_it_says(self) -> None:
        """Longer than the store's time to live, or shorter; then it counts as it was reserved."""

        async def scenario(store: QuotaStore) -> None:
            keeper, week = _keeper(store), 7 * 86400.0
            charges = [Charge("team:a", AT_ONCE), Charge("team:a", Limit("llm_tokens", 1000, per="minute"), 900)]
            assert await keeper.reserve("p0", [Charge("team:a", AT_ONCE)]) is None
            assert await keeper.rename("p0", "job", week)
            self.advance(week - 1)
            assert await keeper.reserve("p1", [Charge("team:a", AT_ONCE, 2)]) is not None
            self.advance(2)
            await keeper.settle("job", {"llm_tokens": 5000})
            assert await keeper.reserve("p2", charges) is None
            assert await keeper.rename("p2", "short", self.permit_ttl_seconds / 8)
            self.advance(self.permit_ttl_seconds / 4)
            await keeper.release("short")
            assert await keeper.reserve("p3", [Charge("team:a", AT_ONCE, 2)]) is None

        self.run_with_store(scenario)

    # What is left

    def test_says_how_limits_stand(self) -> None:
        """By slot, and every kind; what is unused may be missing."""

        async def scenario(store: QuotaStore) -> None:
            keeper = _keeper(store)
            charges = [Charge("team:a", limit) for limit in (PER_HOUR, PER_MONTH, AT_ONCE)]
            assert await self._left(keeper, charges) == [3, 100, 2]
            assert await keeper.reserve("p", [*charges, Charge("team:a", PER_MONTH, 9)]) is None
            assert await keeper.reserve("q", [Charge("team:b", PER_MONTH, 50)]) is None
            assert await self._left(keeper, charges) == [2, 90, 1]
            await keeper.settle("p", {"audio_seconds": 200})
            assert await self._left(keeper, charges) == [2, 0, 2]
            seen = keeper.seen(charges)
            assert set(seen) <= {charge.slot for charge in charges}

        self.run_with_store(scenario)

    async def _left(self, store: QuotaKeeper, charges: list[Charge]) -> list[int]:
        levels = await store.levels(charges)
        if not levels and store.seen(charges) == {} and await self._knows_nothing(store):
            raise SkipTest("this store does not say how limits stand")
        now = int(self.now() * 1e6)
        return [standing(charge.limit, levels.get(charge.slot), now)[0] for charge in charges]

    async def _knows_nothing(self, store: QuotaKeeper) -> bool:
        """Whether a limit of which something is held is not told of."""
        probe = Charge("contract:probe", AT_ONCE)
        assert await store.reserve("probe", [probe]) is None
        levels = await store.levels([probe])
        await store.release("probe")
        return not levels

    def test_agrees_with_the_arithmetic_to_the_unit(self) -> None:
        """Random verbs at random times: the same denials, waits and levels as in this package's memory."""

        async def scenario(store: QuotaStore) -> None:
            keeper = _keeper(store)
            self.advance(0)  # skipped where the clock cannot be moved
            for seed in range(8):
                reference = MemoryQuotas(clock=self.now, permit_ttl_seconds=self.permit_ttl_seconds)
                await _Rehearsal(self, keeper, reference, seed).run()

        self.run_with_store(scenario)


class _Rehearsal:
    """The same random history for two stores. Each seed has subjects of its own."""

    def __init__(self, contract: QuotaKeeperContract, store: QuotaKeeper, reference: MemoryQuotas, seed: int) -> None:
        self.contract = contract
        self.stores = (reference, store)
        self.random = random.Random(seed)  # noqa: S311 - the same history each time
        self.seed = seed
        self.permits = 0
        self.charges = [Charge(f"team:{seed}-{number % 2}", limit) for number, limit in enumerate(_LIMITS * 2)]

    async def run(self) -> None:
        """Do 60 steps, and compare after each."""
        for _ in range(60):
            if self.random.random() < 0.5:
                self.contract.advance(round(self.random.choice((0.001, 0.07, 1.3, 17, 400)) * self.random.random(), 6))
            step = self.random.choice((self._reserve, self._reserve, self._reserve, self._end, self._keep))
            mine, theirs = [await step(store, verb) for verb in [self.random.random()] for store in self.stores]
            assert theirs == mine
        expected, given = [await self._standings(store) for store in self.stores]
        if given is not None:
            assert given == expected

    async def _reserve(self, store: QuotaKeeper, luck: float) -> Any:
        choice = random.Random(luck)  # noqa: S311
        self.permits += store is self.stores[0]
        charges = [
            Charge(one.subject, one.limit, choice.randrange(1 + one.limit.amount // 2))
            for one in choice.sample(self.charges, 3)
        ]
        return await store.reserve(f"{self.seed}-{self.permits}", charges)

    async def _end(self, store: QuotaKeeper, luck: float) -> Any:
        choice = random.Random(luck)  # noqa: S311
        permit = f"{self.seed}-{choice.randrange(1 + self.permits)}"
        if choice.random() < 0.3:
            return await store.release(permit)
        return await store.settle(permit, {"requests": choice.randrange(9), "upload_bytes": choice.randrange(10**9)})

    async def _keep(self, store: QuotaKeeper, luck: float) -> Any:
        return await store.renew(f"{self.seed}-{random.Random(luck).randrange(1 + self.permits)}")  # noqa: S311

    async def _standings(self, store: QuotaKeeper) -> Any:
        levels = await store.levels(self.charges)
        now = int(self.contract.now() * 1e6)
        return [standing(one.limit, levels.get(one.slot), now) for one in self.charges] if levels else None


# One of every way to count: ticks of a microsecond, a millisecond and a second, windows of the calendar, and held.
_LIMITS = [
    Limit("requests", 7, per="second"),
    Limit("requests", 1000, per="minute"),
    Limit("upload_bytes", 3 * 10**8, per="minute"),
    Limit("upload_bytes", 10**11, per="hour"),
    Limit("audio_seconds", 5000, per="day", time_zone="Europe/Berlin"),
    Limit("cost", 7 * 10**12, per="month"),
    Limit("concurrency", 9),
]


def _keeper(store: QuotaStore) -> QuotaKeeper:
    if not isinstance(store, QuotaKeeper):
        raise SkipTest("this store has the verbs of QuotaStore only")
    return store
