"""The pool: who gets a key, who waits, what verdicts change, and how the list of keys may change meanwhile.

The numbers of regression cases are those of the list that was harvested from other gateways' bugs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

import pytest

from keypool_asgi.core.health import HealthPolicy, Scope, State
from keypool_asgi.core.keys import UpstreamKey
from keypool_asgi.core.selection import Need, Offer
from keypool_asgi.core.verdicts import Fault, Verdict
from keypool_asgi.errors import ConfigurationError, NoAvailableKeys, StoreUnavailable
from keypool_asgi.ports import LeasingPool
from keypool_asgi.stores.pool import Pool
from keypool_asgi.stores.roster import KeyLease

API = Need("api")
GOOD = Verdict(Fault.NONE)
THROTTLED = Verdict(Fault.THROTTLED)
EXHAUSTED = Verdict(Fault.EXHAUSTED)
REJECTED = Verdict(Fault.REJECTED)
UNRELATED = Verdict(Fault.UNRELATED)
T = TypeVar("T")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """A list of keys that a test changes."""

    def __init__(self, *keys: UpstreamKey) -> None:
        self.keys: Iterable[UpstreamKey] = keys

    async def load(self) -> Iterable[UpstreamKey]:
        return self.keys


def key(id_: str, secret: str | None = None, **more: Any) -> UpstreamKey:
    return UpstreamKey(id_, secret or f"secret-{id_}", **more)


class Bench:
    """A pool whose clock and randomness the test holds."""

    def __init__(self, *keys: UpstreamKey, source: object = None, wait_seconds: float = 0, **more: Any) -> None:
        self.clock = Clock()
        self.pool = Pool(
            list(keys) if source is None else source,
            clock=self.clock,
            random=Random(1),
            wait_seconds=wait_seconds,
            **more,
        )

    async def use(self, verdict: Verdict, need: Need = API) -> str:
        """One whole exchange; the id of the key that served it."""
        lease = await self.pool.lease(need)
        await self.pool.give_back(lease, verdict)
        return lease.key.id

    async def walk(self, verdicts: dict[str, Verdict], need: Need = API) -> list[str]:
        """An exchange that goes from key to key until one serves it."""
        tried: list[str] = []
        while True:
            step = Need(need.service, need.regions, need.project, frozenset(tried), need.proven)
            tried.append(await self.use_on(verdicts, step))
            if verdicts.get(tried[-1], GOOD) is GOOD:
                return tried

    async def use_on(self, verdicts: dict[str, Verdict], need: Need) -> str:
        lease = await self.pool.lease(need)
        await self.pool.give_back(lease, verdicts.get(lease.key.id, GOOD))
        return lease.key.id

    def state(self, id_: str, service: str = "api") -> State:
        return next(one for one in self.pool.snapshot() if one.id == id_).health[service].state


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(main())


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def refusal(asked: Awaitable[object]) -> NoAvailableKeys:
    with pytest.raises(NoAvailableKeys) as caught:
        await asked
    return caught.value


def port(pool: Pool) -> LeasingPool:
    """The type checker's proof that the pool is what the stages ask for."""
    return pool


# Leases.


def test_leases_are_counted_and_come_back_once() -> None:
    async def main() -> None:
        bench = Bench(key("a"), key("b"))
        leases = [await port(bench.pool).lease(API) for _ in range(4)]
        assert sorted(lease.key.id for lease in leases) == ["a", "a", "b", "b"]
        assert bench.pool.in_flight == 4
        for lease in leases * 2:
            await bench.pool.give_back(lease, GOOD)
        assert bench.pool.in_flight == 0
        assert [one.in_flight for one in bench.pool.snapshot()] == [0, 0]

    run(main)


def test_only_a_lease_of_a_pool_can_be_given_back() -> None:
    class Other:
        key = key("a")

    with pytest.raises(TypeError, match="Other"):
        run(lambda: Bench(key("a")).pool.give_back(Other(), GOOD))


def test_nothing_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[str]:
        bench = Bench(key("a", "top-secret"))
        lease = await bench.pool.lease(API)
        texts = [repr(lease), str(lease), repr(bench.pool.snapshot())]
        await bench.pool.give_back(lease, REJECTED)
        texts += [repr(lease), repr(await refusal(bench.pool.lease(API)))]
        return texts

    caplog.set_level(logging.DEBUG)
    assert "top-secret" not in " ".join([*run(main), caplog.text])
    assert "key a is rejected at api; it is tried again in 5.0 s" in caplog.text


# Regression cases.


def test_case_5_three_dead_keys_and_a_good_one() -> None:
    async def main() -> None:
        bench = Bench(key("dead-1"), key("dead-2"), key("dead-3"), key("good", priority=1))
        dead = dict.fromkeys(("dead-1", "dead-2", "dead-3"), REJECTED)
        assert (await bench.walk(dead))[-1] == "good"
        assert [await bench.walk(dead) for _ in range(20)] == [["good"]] * 20

    run(main)


@pytest.mark.parametrize("verdict", [THROTTLED, EXHAUSTED, REJECTED])
def test_case_6_all_dead_and_later_healed(verdict: Verdict) -> None:
    async def main() -> None:
        bench = Bench(key("a"), key("b"), key("c"))
        for _ in range(3):
            await bench.use(verdict)
        seconds = (await refusal(bench.pool.lease(API))).retry_after
        assert seconds is not None
        bench.clock.now += seconds + 1e-6
        served = {await bench.use(GOOD)}
        bench.clock.now += 1
        served |= {await bench.use(GOOD) for _ in range(9)}
        assert served == {"a", "b", "c"}

    run(main)


def test_case_7_a_poison_request_changes_no_health() -> None:
    async def main() -> None:
        bench = Bench(key("a"), key("b"))
        for _ in range(50):
            await bench.use(UNRELATED)
        assert [bench.state("a"), bench.state("b")] == [State.ACTIVE, State.ACTIVE]

    run(main)


def test_case_8_throttling_cools_the_siblings_and_nobody_else() -> None:
    async def main() -> None:
        bench = Bench(key("a1", account="A"), key("a2", account="A"), key("b", account="B", priority=1))
        await bench.use(THROTTLED)
        assert [await bench.use(GOOD) for _ in range(9)] == ["b"] * 9
        first, second, other = (one.health["api"] for one in bench.pool.snapshot())
        assert first == second
        assert (first.state, first.scope) == (State.COOLING, Scope.ACCOUNT)
        assert 0.5 <= first.opens_in <= 1.0
        assert (other.state, other.opens_in) == (State.ACTIVE, 0)

    run(main)


def test_throttling_at_one_service_leaves_the_others_alone() -> None:
    async def main() -> None:
        bench = Bench(key("a"))
        await bench.use(Verdict(Fault.THROTTLED, 30), Need("llm_gateway"))
        assert (await refusal(bench.pool.lease(Need("llm_gateway")))).retry_after == 30
        assert await bench.use(GOOD) == "a"

    run(main)


def test_a_burst_of_429_is_one_step_of_backoff() -> None:
    async def main() -> None:
        bench = Bench(key("a"))
        leases = [await bench.pool.lease(API) for _ in range(64)]
        for lease in leases[:60]:
            await bench.pool.give_back(lease, THROTTLED)
        for lease in leases[60:]:
            await bench.pool.give_back(lease, GOOD)
        assert bench.state("a") is State.COOLING
        assert (await refusal(bench.pool.lease(API))).retry_after == pytest.approx(0.75, abs=0.25)

    run(main)


def test_case_22_hot_swap_with_200_leases_out() -> None:
    async def main() -> None:
        source = Source(key("a"), key("b"))
        bench = Bench(source=source)
        old = [await bench.pool.lease(API) for _ in range(200)]
        source.keys = [key("c"), key("b", "rotated")]
        await bench.pool.refresh()
        new = [await bench.pool.lease(API) for _ in range(10)]
        assert sorted({lease.key.id for lease in new}) == ["b", "c"]
        assert {lease.key.secret.reveal() for lease in new} == {"secret-c", "rotated"}
        shown = [(one.id, one.in_flight, one.listed) for one in bench.pool.snapshot()]
        assert shown == [("c", 5, True), ("b", 5, True), ("a", 100, False), ("b", 100, False)]
        for lease in [*old, *new]:
            await bench.pool.give_back(lease, GOOD)
        assert [(one.id, one.in_flight) for one in bench.pool.snapshot()] == [("c", 0), ("b", 0)]
        assert bench.pool.in_flight == 0

    run(main)


# The list of keys changes.


def test_a_replaced_key_is_new_and_old_verdicts_do_not_reach_it() -> None:
    async def main() -> None:
        source = Source(key("a", "old"))
        bench = Bench(source=source)
        late = await bench.pool.lease(API)
        assert await bench.use(REJECTED) == "a"
        source.keys = [key("a", "new")]
        await bench.pool.refresh()
        assert await bench.use(GOOD) == "a"
        await bench.pool.give_back(late, REJECTED)
        assert await bench.use(GOOD) == "a"

    run(main)


@pytest.mark.parametrize(
    ("changed", "comes_back"),
    [
        (key("a"), False),
        (key("a", region="eu"), True),
        (key("a", weight=2), True),
        (key("a", "other"), True),
    ],
)
def test_a_rejected_key_comes_back_when_its_entry_changes(changed: UpstreamKey, comes_back: bool) -> None:
    async def main() -> None:
        source = Source(key("a"), key("b"))
        bench = Bench(source=source)
        tried = await bench.use(REJECTED)
        source.keys = [changed if tried == "a" else key("a"), key("b")]
        if tried == "b":
            await bench.use(REJECTED)
            source.keys = [changed, key("b")]
        await bench.pool.refresh()
        only_a = Need("api", tried=frozenset({"b"}))
        if comes_back:
            assert await bench.use(GOOD, only_a) == "a"
        else:
            await refusal(bench.pool.lease(only_a))

    run(main)


def test_an_account_stays_cool_when_its_keys_are_replaced() -> None:
    async def main() -> None:
        source = Source(key("a", account="A"))
        bench = Bench(source=source)
        await bench.use(Verdict(Fault.THROTTLED, 30))
        source.keys = [key("a", "new", account="A")]
        await bench.pool.refresh()
        assert (await refusal(bench.pool.lease(API))).retry_after == 30

    run(main)


def test_a_key_that_leaves_and_returns_still_counts_its_leases() -> None:
    async def main() -> None:
        source = Source(key("a", max_in_flight=1), key("b", priority=1))
        bench = Bench(source=source)
        lease = await bench.pool.lease(API)
        for keys in ([key("b", priority=1)], [key("a", max_in_flight=1), key("b", priority=1)]):
            source.keys = keys
            await bench.pool.refresh()
        assert await bench.use(GOOD) == "b"
        await bench.pool.give_back(lease, GOOD)
        assert await bench.use(GOOD) == "a"
        assert [one.id for one in bench.pool.snapshot()] == ["a", "b"]

    run(main)


def test_what_a_lease_from_before_a_reload_says_closes_the_key() -> None:
    async def main() -> None:
        source = Source(key("a"))
        bench = Bench(source=source)
        await bench.use(GOOD)
        lease = await bench.pool.lease(API)
        source.keys = [key("a"), key("b", account="a", region="eu")]
        await bench.pool.refresh()
        assert await bench.use(GOOD, Need("api", project="a")) == "a"
        await bench.pool.give_back(lease, THROTTLED)
        await refusal(bench.pool.lease(API))

    run(main)


def test_a_ramp_that_ends_with_a_lease_counts_it_no_longer_than_it_is_out() -> None:
    async def main() -> None:
        bench = Bench(key("a"))
        await bench.use(THROTTLED)
        bench.clock.now += 1
        await bench.use(GOOD)
        await bench.use(GOOD)
        bench.clock.now += 31
        lease = await bench.pool.lease(API)
        assert bench.state("a") is State.ACTIVE
        assert [subject.in_flight for subject in lease.seat.subjects] == [1, 1, 1]
        await bench.pool.give_back(lease, GOOD)
        assert [subject.in_flight for subject in lease.seat.subjects] == [0, 0, 0]

    run(main)


def test_nothing_is_remembered_of_what_left() -> None:
    async def main() -> None:
        source = Source(key("k"))
        bench = Bench(source=source)
        for n in range(20):
            source.keys = [key(f"k{n}", account=f"account-{n}")]
            await bench.pool.refresh()
            await bench.use(THROTTLED)
        assert len(bench.pool._roster._subjects) == 3
        assert len(bench.pool.snapshot()) == 1
        for _ in range(3):
            await bench.pool.refresh()
            await refusal(bench.pool.lease(API))
        assert [len(subject.seats) for subject in bench.pool._roster.subjects()] == [1, 1, 1]

    run(main)


def test_keys_are_loaded_again_when_they_are_old() -> None:
    async def main() -> None:
        source = Source(key("a"))
        bench = Bench(source=source, ttl_seconds=60)
        assert await bench.use(GOOD) == "a"
        source.keys = [key("b")]
        assert await bench.use(GOOD) == "a"
        bench.clock.now += 61
        assert await bench.use(GOOD) == "a"
        await settled()
        assert await bench.use(GOOD) == "b"

    run(main)


def test_a_source_that_fails_from_the_start() -> None:
    def broken() -> list[UpstreamKey]:
        raise OSError("down")

    async def main() -> None:
        bench = Bench(source=broken)
        with pytest.raises(StoreUnavailable):
            await bench.pool.lease(API)

    run(main)


def test_no_task_is_left_behind() -> None:
    async def main() -> None:
        hanging = asyncio.Event()
        bench = Bench(source=hanging.wait)
        asked = asyncio.create_task(bench.pool.lease(API))
        await settled()
        await bench.pool.aclose()
        with pytest.raises(StoreUnavailable):
            await asked
        assert len(asyncio.all_tasks()) == 1

    run(main)


# What the caller reads.


def test_sentences() -> None:
    async def main() -> None:
        source = Source()
        bench = Bench(source=source)
        assert (await refusal(bench.pool.lease(API))).sentence == "The pool has no keys: its operator must add one."
        source.keys = [key("prod-1", account="acme", max_in_flight=1)]
        await bench.pool.refresh()
        for need in (Need("api", regions=frozenset({"eu"})), Need("api", project="gone")):
            found = await refusal(bench.pool.lease(need))
            assert (found.status, found.retry_after) == (503, None)
            assert "region and project" in found.sentence
        lease = await bench.pool.lease(API)
        found = await refusal(bench.pool.lease(API))
        assert ("busy" in found.sentence, found.retry_after) == (True, None)
        await bench.pool.give_back(lease, EXHAUSTED)
        found = await refusal(bench.pool.lease(API))
        assert (found.sentence, found.retry_after) == (
            "No key can serve this request now; try again later.",
            300,
        )

    run(main)


# Early verdicts.


def test_a_stream_proves_its_key_long_before_it_ends() -> None:
    async def main() -> None:
        bench = Bench(key("a"))
        await bench.use(THROTTLED)
        bench.clock.now += 1
        stream = await bench.pool.lease(API)
        await refusal(bench.pool.lease(API))
        bench.pool.judge(stream, GOOD)
        assert bench.state("a") is State.RAMP
        another = await bench.pool.lease(API)
        bench.pool.judge(another, GOOD)
        bench.pool.judge(another, GOOD)
        await bench.pool.give_back(another, GOOD)
        assert bench.pool._roster.seats("api", 0)[0].subjects[2].health.limit == 2, "one success, told three times"
        await bench.pool.give_back(stream, GOOD)
        assert bench.pool.in_flight == 0

    run(main)


def test_streams_that_were_open_before_the_throttling_do_not_hold_up_the_ramp() -> None:
    async def main() -> None:
        bench = Bench(key("a"))
        streams = [await bench.pool.lease(API) for _ in range(50)]
        await bench.use(THROTTLED)
        bench.clock.now += 1
        await bench.use(GOOD)
        assert await bench.use(GOOD) == "a"
        for stream in streams:
            await bench.pool.give_back(stream, GOOD)
        assert bench.pool._roster.seats("api", 0)[0].subjects[2].in_flight == 0

    run(main)


def test_an_uncertain_verdict_counts_when_it_has_become_certain() -> None:
    async def main() -> None:
        bench = Bench(key("a"))
        lease = await bench.pool.lease(API)
        await bench.pool.give_back(lease, Verdict(Fault.THROTTLED, certain=False))
        assert bench.state("a") is State.ACTIVE
        bench.pool.judge(lease, THROTTLED)
        assert bench.state("a") is State.COOLING

    run(main)


# Choice.


def test_a_large_upload_goes_to_a_proven_key_until_the_others_have_had_their_chance() -> None:
    async def main() -> None:
        bench = Bench(key("a"), key("b"))
        upload = Need("api", proven=True)
        first = await bench.use(GOOD)
        held = [await bench.pool.lease(upload) for _ in range(5)]
        assert {lease.key.id for lease in held} == {first}
        bench.clock.now += HealthPolicy().unproven_seconds
        assert await bench.use(GOOD, upload) != first

    run(main)


def test_an_operators_own_choice() -> None:
    def eu_first(offers: Sequence[Offer], need: Need) -> str | None:
        return next((offer.id for offer in offers if offer.region == "eu"), None)

    async def main() -> None:
        bench = Bench(key("us"), key("eu", region="eu", priority=9, max_in_flight=1), select=eu_first)
        lease = await bench.pool.lease(API)
        assert (lease.key.id, await bench.use(GOOD)) == ("eu", "us")

    run(main)


def test_an_operators_choice_that_raises_hurts_only_the_one_who_asked() -> None:
    broken: list[bool] = []

    def select(offers: Sequence[Offer], need: Need) -> str | None:
        if broken:
            raise ZeroDivisionError
        return None

    async def main() -> None:
        bench = Bench(key("a", max_in_flight=1), select=select, wait_seconds=5)
        lease = await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        broken.append(True)
        await bench.pool.give_back(lease, GOOD)
        with pytest.raises(StoreUnavailable):
            await waiting
        broken.clear()
        lease = await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        broken.append(True)
        await bench.pool.give_back(lease, GOOD)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StoreUnavailable):
            await bench.pool.lease(API)
        assert bench.pool.in_flight == 0

    run(main)


# Waiting.


def one_key(wait_seconds: float = 5) -> Bench:
    return Bench(key("a", max_in_flight=1), wait_seconds=wait_seconds)


def test_first_come_first_served() -> None:
    async def main() -> None:
        bench = one_key()
        lease = await bench.pool.lease(API)
        order: list[int] = []

        async def customer(number: int) -> None:
            mine = await bench.pool.lease(API)
            order.append(number)
            await asyncio.sleep(0)
            await bench.pool.give_back(mine, GOOD)

        customers = [asyncio.create_task(customer(number)) for number in range(8)]
        await settled()
        await bench.pool.give_back(lease, GOOD)
        late = asyncio.create_task(customer(99))
        await asyncio.gather(*customers, late)
        assert order == [*range(8), 99]

    run(main)


def test_a_waiter_does_not_block_those_who_need_something_else() -> None:
    async def main() -> None:
        bench = Bench(key("a", max_in_flight=1), key("b"), wait_seconds=5)
        lease = await bench.pool.lease(Need("api", project="a"))
        waiting = asyncio.create_task(bench.pool.lease(Need("api", project="a")))
        await settled()
        assert await bench.use(GOOD) == "b"
        await bench.pool.give_back(lease, GOOD)
        assert (await waiting).key.id == "a"

    run(main)


def test_waiting_is_bounded() -> None:
    async def main() -> None:
        bench = one_key(wait_seconds=0.01)
        await bench.pool.lease(API)
        assert "busy" in (await refusal(bench.pool.lease(API))).sentence
        assert not bench.pool._waiters

    run(main)


def test_nobody_waits_for_what_cannot_come_in_time() -> None:
    async def main() -> None:
        bench = one_key(wait_seconds=5)
        await bench.use(Verdict(Fault.THROTTLED, 30))
        assert (await asyncio.wait_for(refusal(bench.pool.lease(API)), 1)).retry_after == 30
        await asyncio.wait_for(refusal(bench.pool.lease(Need("api", project="gone"))), 1)

    run(main)


def test_a_waiter_gives_up_when_its_key_dies() -> None:
    async def main() -> None:
        bench = one_key(wait_seconds=5)
        lease = await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        await bench.pool.give_back(lease, EXHAUSTED)
        assert (await asyncio.wait_for(refusal(waiting), 1)).retry_after == 300

    run(main)


def test_a_key_that_opens_soon_is_waited_for() -> None:
    async def main() -> None:
        pool = Pool([key("a")], policy=HealthPolicy(cooling_first_seconds=0.01), wait_seconds=5)
        await pool.give_back(await pool.lease(API), THROTTLED)
        assert (await asyncio.wait_for(pool.lease(API), 1)).key.id == "a"

    run(main)


def test_waiters_follow_the_ramp() -> None:
    async def main() -> None:
        bench = Bench(key("a"), wait_seconds=5)
        await bench.use(THROTTLED)
        bench.clock.now += 1
        probe = await bench.pool.lease(API)
        waiting = [asyncio.create_task(bench.pool.lease(API)) for _ in range(7)]
        await settled()
        served: list[int] = []
        batch: list[KeyLease] = [probe]
        while batch:
            for lease in batch:
                await bench.pool.give_back(lease, GOOD)
            await settled()
            done = [task for task in waiting if task.done()]
            waiting = [task for task in waiting if not task.done()]
            batch = [task.result() for task in done]
            served.append(len(batch))
        assert served == [1, 2, 4, 0]

    run(main)


def test_an_early_verdict_serves_those_who_wait() -> None:
    async def main() -> None:
        bench = Bench(key("a"), wait_seconds=5)
        await bench.use(THROTTLED)
        bench.clock.now += 1
        stream = await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        bench.pool.judge(stream, GOOD)
        assert (await asyncio.wait_for(waiting, 1)).key.id == "a"

    run(main)


def test_a_key_that_opens_by_time_is_not_taken_from_those_who_wait() -> None:
    async def main() -> None:
        bench = Bench(key("a", max_in_flight=1), wait_seconds=5)
        await bench.use(THROTTLED)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        bench.clock.now += 1
        late = asyncio.create_task(bench.pool.lease(API))
        await settled()
        assert (waiting.done(), late.done()) == (True, False)
        await bench.pool.give_back(waiting.result(), GOOD)
        assert (await late).key.id == "a"

    run(main)


def test_a_waiter_goes_when_there_is_nothing_left_to_wait_for() -> None:
    async def main() -> None:
        source = Source(key("a", max_in_flight=1), key("b"))
        bench = Bench(source=source, wait_seconds=5)
        await bench.use(Verdict(Fault.THROTTLED, 2), Need("api", tried=frozenset({"a"})))
        lease = await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        await bench.pool.give_back(lease, EXHAUSTED)
        await settled()
        assert not waiting.done(), "b opens in 2 s"
        source.keys = [key("a", max_in_flight=1)]
        await bench.pool.refresh()
        assert (await asyncio.wait_for(refusal(waiting), 1)).retry_after == 300

    run(main)


def test_a_long_queue_costs_one_look() -> None:
    async def main() -> None:
        bench = Bench(key("a", max_in_flight=1), key("b", max_in_flight=1), wait_seconds=5)
        _, lease = [await bench.pool.lease(Need("api", project=project)) for project in "ab"]
        waiting = [asyncio.create_task(bench.pool.lease(Need("api", project="ab"[n % 2]))) for n in range(500)]
        await settled()
        with patch.object(bench.pool, "_find", wraps=bench.pool._find) as looks:
            await bench.pool.give_back(lease, GOOD)
        await settled()
        assert [n for n, task in enumerate(waiting) if task.done()] == [1]
        assert looks.call_count == 3, "one for whom the key is, and one of each kind who finds nothing"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (bench.pool.in_flight, len(bench.pool._wanted)) == (2, 0)

    run(main)


def test_a_new_key_serves_those_who_wait() -> None:
    async def main() -> None:
        source = Source(key("a", max_in_flight=1))
        bench = Bench(source=source, wait_seconds=5)
        await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        source.keys = [key("a", max_in_flight=1), key("b")]
        await bench.pool.refresh()
        assert (await asyncio.wait_for(waiting, 1)).key.id == "b"

    run(main)


def test_a_waiter_cancelled_as_its_key_comes_passes_it_on() -> None:
    async def main() -> None:
        bench = one_key()
        lease = await bench.pool.lease(API)
        first, second = (asyncio.create_task(bench.pool.lease(API)) for _ in range(2))
        await settled()
        await bench.pool.give_back(lease, GOOD)
        assert bench.pool.in_flight == 1, "the key is the first waiter's already"
        first.cancel()
        assert (await asyncio.wait_for(second, 1)).key.id == "a"
        assert first.cancelled()
        assert bench.pool.in_flight == 1

    run(main)


def test_a_probe_that_is_cancelled_as_it_comes_leaves_its_place() -> None:
    async def main() -> None:
        bench = Bench(key("a"), wait_seconds=5)
        await bench.use(THROTTLED)
        bench.clock.now += 1
        probe = await bench.pool.lease(API)
        waiting = asyncio.create_task(bench.pool.lease(API))
        await settled()
        await bench.pool.give_back(probe, UNRELATED)
        waiting.cancel()
        await settled()
        assert bench.state("a") is State.COOLING
        assert await bench.use(GOOD) == "a"
        assert bench.state("a") is State.RAMP

    run(main)


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("victim", range(3))
def test_cancelled_at_every_await_nothing_is_lost(steps: int, victim: int) -> None:
    async def main() -> None:
        async def slow() -> list[UpstreamKey]:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return [key("a", max_in_flight=1)]

        bench = Bench(source=slow, wait_seconds=5)

        async def customer() -> None:
            lease = await bench.pool.lease(API)
            try:
                await asyncio.sleep(0)
            finally:
                await bench.pool.give_back(lease, GOOD)

        customers = [asyncio.create_task(customer()) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        customers[victim].cancel()
        results = await asyncio.gather(*customers, return_exceptions=True)
        assert all(result is None for n, result in enumerate(results) if n != victim)
        assert (bench.pool.in_flight, bench.pool._waiters) == (0, {})
        assert await bench.use(GOOD) == "a"

    run(main)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"wait_seconds": -1}, "wait_seconds"),
        ({"wait_seconds": float("nan")}, "wait_seconds"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"stale_seconds": 0}, "stale_seconds"),
        ({"load_seconds": 0}, "load_seconds"),
    ],
)
def test_wrong_settings(settings: dict[str, float], names: str) -> None:
    with pytest.raises(ConfigurationError, match=names):
        Pool([key("a")], **settings)  # type: ignore[arg-type]
