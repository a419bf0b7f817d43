"""Quota stores: the contract for every way to pass one, memory in depth, and failing stores."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from unittest import SkipTest

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keypool_asgi.core.limits import Charge, Denial, Limit
from keypool_asgi.errors import ConfigurationError, Forbidden, StoreUnavailable
from keypool_asgi.ports import QuotaStore
from keypool_asgi.stores.quotas import MemoryQuotas, QuotaCallbacks, quota_store
from keypool_asgi.testing.contracts import QuotaStoreContract

PER_MINUTE = Limit("requests", 10, per="minute")
AT_ONCE = Limit("concurrency", 10)
BOTH = [Charge("team:a", PER_MINUTE), Charge("team:a", AT_ONCE)]
VERBS = ("reserve", "renew", "settle", "release", "rename", "levels")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def drive(coroutine):
    """Run a coroutine that must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it yielded to the event loop")


def held_ids(memory):
    return {permit_id for permits in memory._lives.values() for permit_id in permits}


class Sync:
    """A store with the port's methods as plain functions, safe in threads."""

    def __init__(self, store):
        self.store = store
        self.lock = threading.Lock()

    def _call(self, verb, *args):
        with self.lock:
            return drive(getattr(self.store, verb)(*args))

    def __getattr__(self, verb):
        if verb not in VERBS:
            raise AttributeError(verb)
        return partial(self._call, verb)


class Slow:
    """A store that is far away: every verb takes a while before and after it takes effect."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, verb):
        if verb not in VERBS:
            raise AttributeError(verb)

        async def call(*args):
            await asyncio.sleep(0)
            result = await getattr(self.store, verb)(*args)
            await asyncio.sleep(0)
            return result

        return call


def callbacks(store):
    return QuotaCallbacks(**{verb: getattr(store, verb) for verb in VERBS})


# Every way to pass a store whose truth is this memory.
WAYS = {
    "memory": lambda memory: memory,
    "sync callables": lambda memory: callbacks(Sync(memory)),
    "async callables": lambda memory: callbacks(Slow(memory)),
    "callables around async ones": lambda memory: QuotaCallbacks(
        **{verb: lambda *args, verb=verb: getattr(memory, verb)(*args) for verb in VERBS}
    ),
    "object": Slow,
    "sync object": Sync,
    "guarded twice": lambda memory: quota_store(Slow(memory)),
}


class TestContract(QuotaStoreContract):
    @pytest.fixture(autouse=True, params=WAYS)
    def _way(self, request):
        self.way = WAYS[request.param]
        self.clock = Clock()

    def make_store(self):
        return quota_store(self.way(MemoryQuotas(clock=self.clock)))

    def advance(self, seconds):
        self.clock.now += seconds

    def now(self):
        return self.clock.now


class TestContractInItsDefaults:
    def test_gives_no_store(self):
        with pytest.raises(NotImplementedError):
            QuotaStoreContract().make_store()

    def test_skips_what_it_cannot_time(self):
        with pytest.raises(SkipTest):
            QuotaStoreContract().advance(1)

    def test_awaits_the_store_and_closes_it(self):
        closed = []

        class Contract(QuotaStoreContract):
            async def make_store(self):
                return quota_store()

            async def close_store(self, store):
                closed.append(store)

        Contract().test_racing_for_a_budget()
        assert len(closed) == 1


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def test_each_way_gives_a_store(way):
    assert isinstance(quota_store(way(MemoryQuotas())), QuotaStore)


def test_a_store_of_ours_is_left_as_it_is():
    for store in (MemoryQuotas(), quota_store(callbacks(MemoryQuotas()))):
        assert quota_store(store) is store


def test_an_abandoned_reservation_is_given_back(way):
    """Wherever its caller is cancelled."""

    async def run():
        memory = MemoryQuotas()
        # Of a rate the last moments of a hold may not come back; of a budget everything does.
        budget = Limit("requests", 10, per="month")
        charges = [Charge("team:a", budget), Charge("team:a", AT_ONCE)]
        store = quota_store(way(memory))
        for steps in range(8):
            task = asyncio.create_task(store.reserve(f"p{steps}", charges))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await store.release(f"p{steps}")
        for _ in range(200):
            await asyncio.sleep(0.001)
            if not getattr(store, "_tasks", ()):
                break
        assert await store.reserve("all", [Charge("team:a", budget, 10), Charge("team:a", AT_ONCE, 10)]) is None

    asyncio.run(run())


@pytest.mark.parametrize("verb", ["settle", "release"])
def test_an_end_happens_although_its_caller_is_cancelled(way, verb):
    async def run():
        memory = MemoryQuotas()
        store = quota_store(way(memory))
        assert await store.reserve("p", BOTH) is None
        task = asyncio.create_task(store.settle("p", {}) if verb == "settle" else store.release("p"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        for _ in range(200):
            await asyncio.sleep(0.001)
            if not getattr(store, "_tasks", ()):
                break
        assert not await store.renew("p")

    asyncio.run(run())


# What is not a store


@pytest.mark.parametrize(
    "value", ["memory", 5, {}, lambda: None, MemoryQuotas, object()], ids=lambda value: type(value).__name__
)
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigurationError, match="quotas: must be None, QuotaCallbacks, or an object"):
        quota_store(value)


def test_missing_methods_are_named():
    class Half:
        async def reserve(self, permit_id, charges):
            return None

        async def settle(self, permit_id, used):
            return None

    with pytest.raises(ConfigurationError, match="Half, which lacks renew, release"):
        quota_store(Half())


@pytest.mark.parametrize("wrong", [{"reserve": None}, {"reserve": 5}, {"reserve": print, "settle": "settle"}])
def test_callbacks_must_be_callable(wrong):
    with pytest.raises(ConfigurationError, match=r"quotas: .* must be callable"):
        QuotaCallbacks(**wrong)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_permits_must_live_for_a_while(seconds):
    with pytest.raises(ConfigurationError, match="permit_ttl_seconds"):
        MemoryQuotas(permit_ttl_seconds=seconds)


def test_reserve_alone_is_enough():
    asked = []

    async def run():
        store = quota_store(QuotaCallbacks(reserve=lambda *args: asked.append(args)))
        assert await store.reserve("p", BOTH) is None
        assert await store.renew("p")
        await store.settle("p", {})
        await store.release("p")

    asyncio.run(run())
    assert asked == [("p", BOTH)]


# Memory


def test_memory_never_yields():
    store = MemoryQuotas()
    assert drive(store.reserve("p", BOTH)) is None
    assert drive(store.renew("p"))
    assert drive(store.settle("p", {})) is None
    assert drive(store.release("p")) is None


def test_memory_forgets_idle_subjects():
    clock = Clock()
    store = MemoryQuotas(clock=clock)
    for number in range(20_000):
        clock.now += 0.1
        assert drive(store.reserve(f"p{number}", [Charge(f"team:{number}", PER_MINUTE)])) is None
        drive(store.settle(f"p{number}", {}))
    # One request of ten a minute drains within six seconds: about 60 of the subjects are not idle.
    assert len(store._levels) <= 1024
    assert not held_ids(store)


def test_memory_does_not_forget_what_is_in_use():
    clock = Clock()
    store = MemoryQuotas(clock=clock)
    busy = [Charge("team:busy", Limit("concurrency", 1)), Charge("team:busy", Limit("requests", 1, per="day"))]
    assert drive(store.reserve("busy", busy)) is None
    for number in range(5000):
        drive(store.reserve(f"p{number}", [Charge(f"team:{number}", Limit("requests", 1, per="day"))]))
    clock.now += 1
    assert drive(store.reserve("p", busy[:1])) is not None
    drive(store.settle("busy", {}))
    assert drive(store.reserve("q", busy[1:])) is not None
    assert drive(store.reserve("r", busy[:1])) is None


def test_permits_of_dead_holders_are_forgotten():
    clock = Clock()
    store = MemoryQuotas(clock=clock, permit_ttl_seconds=10)
    for number in range(5000):
        clock.now += 0.1
        drive(store.reserve(f"p{number}", [Charge("team:a", Limit("concurrency", 100))]))
    assert len(held_ids(store)) <= 100


def test_memory_shows_counts_only():
    store = MemoryQuotas()
    drive(store.reserve("permit-1", BOTH))
    assert repr(store) == "<MemoryQuotas: 1 permits, 2 levels>"


class Permits(RuleBasedStateMachine):
    """Random verbs for a few permits, against a model that keeps open permits in a dict."""

    ids = st.sampled_from("abcdef")
    ttl = 60

    @initialize(amount=st.integers(1, 4), requests=st.integers(1, 4))
    def start(self, amount, requests):
        self.clock = Clock()
        self.store = MemoryQuotas(clock=self.clock, permit_ttl_seconds=self.ttl)
        self.at_once = Limit("concurrency", amount)
        self.per_minute = Limit("requests", requests, per="minute")
        self.open = {}  # permit id -> (expiry, concurrency held)
        self.spent = []  # times at which a request was used up, or may be

    def prune(self):
        self.open = {key: value for key, value in self.open.items() if value[0] > self.clock.now}

    @rule(seconds=st.sampled_from([0.5, 1, 7, 30, 59.5, 60, 61, 200]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(permit_id=ids, amount=st.integers(0, 3), with_request=st.booleans())
    def reserve(self, permit_id, amount, with_request):
        self.prune()
        known = permit_id in self.open
        charges = [Charge("team:a", self.at_once, amount)]
        if with_request:
            charges.append(Charge("team:a", self.per_minute))
        denial = drive(self.store.reserve(permit_id, charges))
        fits = sum(held for _, held in self.open.values()) + amount <= self.at_once.amount
        if known:
            assert denial is None
        elif denial is None:
            assert fits
            self.open[permit_id] = (self.clock.now + self.ttl, amount)
            if with_request:
                self.spent.append(self.clock.now)
        else:
            assert not fits or denial.charge.limit == self.per_minute

    @rule(permit_id=ids)
    def renew(self, permit_id):
        self.prune()
        assert drive(self.store.renew(permit_id)) == (permit_id in self.open)
        if permit_id in self.open:
            self.open[permit_id] = (self.clock.now + self.ttl, self.open[permit_id][1])

    @rule(permit_id=ids, used=st.sampled_from([{}, {"requests": 1}, {"concurrency": 0}, {"other": 3}]))
    def settle(self, permit_id, used):
        drive(self.store.settle(permit_id, used))
        self.open.pop(permit_id, None)

    @rule(permit_id=ids)
    def release(self, permit_id):
        drive(self.store.release(permit_id))
        if permit_id in self.open:
            self.spent.clear()  # which of them came back is the arithmetic's to prove
        self.open.pop(permit_id, None)

    @invariant()
    def held_is_open(self):
        if not hasattr(self, "store"):
            return
        self.prune()
        held = sum(amount for _, amount in self.open.values())
        free = self.at_once.amount - held
        assert drive(self.store.reserve("probe", [Charge("team:a", self.at_once, free + 1)])) is not None
        assert drive(self.store.reserve("probe", [Charge("team:a", self.at_once, free)])) is None
        drive(self.store.release("probe"))
        assert held_ids(self.store) == self.open.keys()

    @invariant()
    def no_window_is_over_the_limit(self):
        """Any minute has at most a burst, and what drained within it."""
        for first in getattr(self, "spent", ()):
            within = [time for time in self.spent if first <= time < first + 60]
            assert len(within) < 2 * self.per_minute.amount


TestPermits = Permits.TestCase


# Stores that fail


class Failing(MemoryQuotas):
    """Memory that fails on order: before or after a verb takes effect, once or for ever."""

    def __init__(self, verb, *, after, times):
        super().__init__()
        self.verb, self.after, self.times = verb, after, times

    def verbs(self):
        return QuotaCallbacks(**{verb: partial(self._call, verb) for verb in VERBS})

    async def _call(self, verb, *args):
        fails = verb == self.verb and self.times > 0
        if fails:
            self.times -= 1
            if not self.after:
                raise OSError("connection lost")
        result = await getattr(self, verb)(*args)
        if fails:
            raise OSError("connection lost")
        return result


@pytest.fixture(params=[False, True], ids=["before", "after"])
def after(request):
    """Whether the verb has taken effect when it fails."""
    return request.param


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi")]


def test_a_failing_reserve_refuses_and_holds_nothing(after, caplog):
    async def run():
        memory = Failing("reserve", after=after, times=1)
        store = quota_store(memory.verbs())
        with pytest.raises(StoreUnavailable) as caught:
            await store.reserve("p", BOTH)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.status == 503
        assert not held_ids(memory)
        assert await store.reserve("q", [Charge("team:a", PER_MINUTE, 10), Charge("team:a", AT_ONCE, 10)]) is None

    asyncio.run(run())
    assert len(ours(caplog)) == 1
    assert "quotas: reserve failed" in ours(caplog)[0]


@pytest.mark.parametrize("verb", ["settle", "release"])
def test_an_end_that_fails_once_is_repeated(verb, after, caplog):
    async def run():
        memory = Failing(verb, after=after, times=1)
        store = quota_store(memory.verbs())
        assert await store.reserve("p", [Charge("team:a", PER_MINUTE, 9), Charge("team:a", AT_ONCE)]) is None
        await (store.settle("p", {}) if verb == "settle" else store.release("p"))
        assert not held_ids(memory)
        denial = await store.reserve("q", [Charge("team:a", PER_MINUTE, 2)])
        assert (denial is not None) == (verb == "settle")

    asyncio.run(run())
    assert not ours(caplog)


@pytest.mark.parametrize("verb", ["settle", "release", "renew"])
def test_an_end_that_keeps_failing_is_reported_once(verb, caplog):
    async def run():
        memory = Failing(verb, after=False, times=100)
        store = quota_store(memory.verbs())
        assert await store.reserve("p", BOTH) is None
        with pytest.raises(StoreUnavailable) as caught:
            await (store.settle("p", {}) if verb == "settle" else getattr(store, verb)("p"))
        assert isinstance(caught.value.__cause__, OSError)

    asyncio.run(run())
    assert len(ours(caplog)) == 1
    assert f"quotas: {verb} failed" in ours(caplog)[0]


def test_a_store_that_is_down_altogether(caplog):
    async def down(*_):
        raise OSError("refused")

    async def run():
        store = quota_store(QuotaCallbacks(reserve=down, settle=down, release=down, renew=down))
        with pytest.raises(StoreUnavailable):
            await store.reserve("p", BOTH)

    asyncio.run(run())
    assert len(ours(caplog)) == 1


@pytest.mark.parametrize("answer", [True, False, 5, "denied"])
def test_an_answer_that_makes_no_sense_refuses(answer, caplog):
    released = []

    async def run():
        store = quota_store(QuotaCallbacks(reserve=lambda *_: answer, release=released.append))
        with pytest.raises(StoreUnavailable):
            await store.reserve("p", BOTH)

    asyncio.run(run())
    assert released == ["p"]
    assert f"it returned {type(answer).__name__}" in ours(caplog)[0]


def test_a_denial_and_a_refusal_of_the_users_own_pass(caplog):
    denial = Denial(BOTH[0], 5)

    def refuse(*_):
        raise Forbidden("This team is suspended.")

    async def run():
        assert await quota_store(QuotaCallbacks(reserve=lambda *_: denial)).reserve("p", BOTH) is denial
        with pytest.raises(Forbidden, match="suspended"):
            await quota_store(QuotaCallbacks(reserve=refuse)).reserve("p", BOTH)

    asyncio.run(run())
    assert not ours(caplog)
