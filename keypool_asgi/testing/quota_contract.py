"""What every ``QuotaStore`` must do, as tests to subclass; see ``contracts``."""

# ruff: noqa: S101 - the asserts are the contract

from __future__ import annotations

import asyncio

from keypool_asgi.core.limits import Charge, Denial, Limit
from keypool_asgi.ports import QuotaStore

from .quota_keeper_contract import AT_ONCE, PER_HOUR, QuotaKeeperContract

__all__ = ["QuotaStoreContract"]


class QuotaStoreContract(QuotaKeeperContract):
    """The behaviour of a ``QuotaStore``. Subclasses give ``make_store``, and the rest where they can.

    Attributes:
        permit_ttl_seconds: how long the store that ``make_store`` makes lets a permit live.
    """

    def test_holds_up_to_the_limit(self) -> None:
        """The amount fits, one more is denied."""

        async def scenario(store: QuotaStore) -> None:
            for number in range(3):
                assert await store.reserve(f"p{number}", [Charge("team:a", PER_HOUR)]) is None
            denial = await store.reserve("p3", [Charge("team:a", PER_HOUR)])
            assert isinstance(denial, Denial)
            assert denial.charge == Charge("team:a", PER_HOUR)
            assert denial.retry_after is not None
            assert 0 < denial.retry_after <= 3600 / 3

        self.run_with_store(scenario)

    def test_a_bare_reservation_fits(self) -> None:
        """A permit without charges is held like any other."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p", []) is None
            assert await store.renew("p")
            await store.settle("p", {})

        self.run_with_store(scenario)

    def test_an_amount_fits_whole_or_not_at_all(self) -> None:
        """Amounts count, and charges for the same limit add up."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p0", [Charge("team:a", PER_HOUR, 2)]) is None
            assert await store.reserve("p1", [Charge("team:a", PER_HOUR, 2)]) is not None
            assert await store.reserve("p2", [Charge("team:a", PER_HOUR), Charge("team:a", PER_HOUR)]) is not None
            assert await store.reserve("p3", [Charge("team:a", PER_HOUR, 1)]) is None

        self.run_with_store(scenario)

    def test_more_than_the_limit_never_fits(self) -> None:
        """Nobody is told to come back for what can never be."""

        async def scenario(store: QuotaStore) -> None:
            denial = await store.reserve("p", [Charge("team:a", PER_HOUR, 4)])
            assert denial is not None
            assert denial.retry_after is None

        self.run_with_store(scenario)

    def test_subjects_and_limits_are_apart(self) -> None:
        """What one team, or one limit, has used is not another's."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p0", [Charge("team:a", PER_HOUR, 3)]) is None
            assert await store.reserve("p1", [Charge("team:b", PER_HOUR, 3)]) is None
            assert await store.reserve("p2", [Charge("team:a", Limit("requests", 4, per="hour"), 4)]) is None
            assert await store.reserve("p3", [Charge("team:a", Limit("requests", 3, per="minute"), 3)]) is None

        self.run_with_store(scenario)

    def test_several_charges_hold_all_or_nothing(self) -> None:
        """A refused reservation leaves no trace in the limits that had room."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p0", [Charge("team:a", AT_ONCE, 2)]) is None
            for number in range(5):
                denied = await store.reserve(f"d{number}", [Charge("team:a", PER_HOUR), Charge("team:a", AT_ONCE)])
                assert denied is not None
                assert denied.charge.limit == AT_ONCE
                assert not await store.renew(f"d{number}")
            assert await store.reserve("p1", [Charge("team:a", PER_HOUR, 3)]) is None

        self.run_with_store(scenario)

    def test_names_the_limit_that_frees_last(self) -> None:
        """A caller who waits for the denial's limit finds the others free too."""

        async def scenario(store: QuotaStore) -> None:
            sooner = Charge("team:a", Limit("requests", 1, per="minute"))
            later = Charge("team:a", Limit("requests", 1, per="hour"))
            assert await store.reserve("p0", [sooner, later]) is None
            for charges in ([sooner, later], [later, sooner]):
                denial = await store.reserve("p1", charges)
                assert denial is not None
                assert denial.charge == later

        self.run_with_store(scenario)

    def test_settling_frees_concurrency_and_keeps_requests(self) -> None:
        """What was reserved counts as used, unless something else is named."""

        async def scenario(store: QuotaStore) -> None:
            both = [Charge("team:a", PER_HOUR), Charge("team:a", AT_ONCE)]
            for number in range(3):
                assert await store.reserve(f"p{number}", both) is None
                await store.settle(f"p{number}", {})
            denial = await store.reserve("p3", both)
            assert denial is not None
            assert denial.charge.limit == PER_HOUR

        self.run_with_store(scenario)

    def test_settling_by_what_was_used(self) -> None:
        """Less than reserved gives the rest back; more is charged."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p0", [Charge("team:a", PER_HOUR, 3)]) is None
            await store.settle("p0", {"requests": 1})
            assert await store.reserve("p1", [Charge("team:a", PER_HOUR, 1)]) is None
            await store.settle("p1", {"requests": 2, "unknown": 7})
            assert await store.reserve("p2", [Charge("team:a", PER_HOUR, 1)]) is not None

        self.run_with_store(scenario)

    def test_releasing_gives_everything_back(self) -> None:
        """A permit that is released at once has never been."""

        async def scenario(store: QuotaStore) -> None:
            both = [Charge("team:a", PER_HOUR, 3), Charge("team:a", AT_ONCE, 2)]
            for number in range(5):
                assert await store.reserve(f"p{number}", both) is None
                await store.release(f"p{number}")

        self.run_with_store(scenario)

    def test_reserving_again_holds_once(self) -> None:
        """A repeated reservation (its answer was lost, say) is the same one."""

        async def scenario(store: QuotaStore) -> None:
            for _ in range(5):
                assert await store.reserve("p", [Charge("team:a", AT_ONCE)]) is None
            assert await store.reserve("q", [Charge("team:a", AT_ONCE)]) is None
            assert await store.reserve("r", [Charge("team:a", AT_ONCE)]) is not None

        self.run_with_store(scenario)

    def test_ends_once(self) -> None:
        """Whatever ends a permit again, and however often, changes nothing."""

        async def scenario(store: QuotaStore) -> None:
            both = [Charge("team:a", PER_HOUR), Charge("team:a", AT_ONCE)]
            assert await store.reserve("p", both) is None
            assert await store.reserve("q", both) is None
            await store.settle("p", {})
            for _ in range(3):
                await store.release("p")
                await store.settle("p", {"requests": 100})
            assert await store.reserve("r", both) is None
            assert await store.reserve("s", [Charge("team:a", AT_ONCE)]) is not None
            assert await store.reserve("t", [Charge("team:a", PER_HOUR)]) is not None

        self.run_with_store(scenario)

    def test_ending_an_unknown_permit_is_harmless(self) -> None:
        """A permit that was never held can be ended and renewed without effect."""

        async def scenario(store: QuotaStore) -> None:
            await store.settle("nobody", {"requests": 5})
            await store.release("nobody")
            assert not await store.renew("nobody")

        self.run_with_store(scenario)

    def test_racing_for_a_budget(self) -> None:
        """Of 100 at the same moment, exactly as many pass as fit."""

        async def scenario(store: QuotaStore) -> None:
            charges = [Charge("team:a", Limit("requests", 10, per="month")), Charge("team:a", Limit("concurrency", 10))]
            denials = await asyncio.gather(*(store.reserve(f"p{number}", charges) for number in range(100)))
            assert denials.count(None) == 10

        self.run_with_store(scenario)

    def test_what_was_used_drains_with_time(self) -> None:
        """A denied charge fits when its ``retry_after`` is over, and not much earlier."""

        async def scenario(store: QuotaStore) -> None:
            charge = Charge("team:a", PER_HOUR)
            for number in range(3):
                assert await store.reserve(f"p{number}", [charge]) is None
                await store.settle(f"p{number}", {})
            denial = await store.reserve("p3", [charge])
            assert denial is not None
            assert denial.retry_after is not None
            self.advance(denial.retry_after - 1)
            assert await store.reserve("p4", [charge]) is not None
            self.advance(1.01)
            assert await store.reserve("p5", [charge]) is None
            assert await store.reserve("p6", [charge]) is not None

        self.run_with_store(scenario)

    def test_a_permit_that_nobody_ends_expires(self) -> None:
        """Its concurrency comes back by itself; what it used per window stays used, and a late end changes nothing."""

        async def scenario(store: QuotaStore) -> None:
            charges = [Charge("team:a", PER_HOUR, 3), Charge("team:a", AT_ONCE, 2)]
            assert await store.reserve("p", charges) is None
            self.advance(self.permit_ttl_seconds * 0.9)
            assert await store.reserve("q", [Charge("team:a", AT_ONCE)]) is not None
            self.advance(self.permit_ttl_seconds * 0.2)
            assert not await store.renew("p")
            await store.release("p")
            assert await store.reserve("r", [Charge("team:a", AT_ONCE, 2)]) is None
            assert await store.reserve("s", [Charge("team:a", PER_HOUR)]) is not None

        self.run_with_store(scenario)

    def test_a_renewed_permit_lives_on(self) -> None:
        """Renewing counts from the moment of renewal, as often as it is done."""

        async def scenario(store: QuotaStore) -> None:
            assert await store.reserve("p", [Charge("team:a", AT_ONCE, 2)]) is None
            for _ in range(5):
                self.advance(self.permit_ttl_seconds * 0.9)
                assert await store.renew("p")
            assert await store.reserve("q", [Charge("team:a", AT_ONCE)]) is not None
            await store.settle("p", {})
            assert await store.reserve("r", [Charge("team:a", AT_ONCE)]) is None

        self.run_with_store(scenario)
