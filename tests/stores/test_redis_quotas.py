"""Quota in Redis: the contract, one hash slot, racing and dying processes, the server's clock and its failures."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from harness import free_port, run
from harness.redis import redis_server

from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import QuotaKeeper
from keypool_asgi.stores.failover_quotas import with_failover
from keypool_asgi.stores.quotas import MemoryQuotas, quota_store
from keypool_asgi.stores.redis.quotas import RedisQuotas
from keypool_asgi.stores.redis.server import RedisServer
from keypool_asgi.testing.contracts import QuotaStoreContract

from .resource_tools import Clock

NAMES = (f"quotas-{number}" for number in itertools.count())
AT_ONCE = Limit("concurrency", 100)
PER_HOUR = Limit("requests", 100, per="hour")
PER_MONTH = Limit("audio_seconds", 100, per="month", time_zone="Europe/Berlin")


@pytest.fixture(scope="module")
def running():
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster():
    """One node that has every slot: it refuses scripts whose keys lie in several."""
    with redis_server(cluster_enabled="yes") as server:
        server.join_alone()
        yield server


class Stores:
    def make_store(self):
        return RedisQuotas(RedisServer(self.url, prefix=next(NAMES), answer_seconds=10), clock=self.clock)

    async def close_store(self, store):
        await store._server.aclose()

    def now(self):
        return self.clock.now

    def advance(self, seconds):
        self.clock.now += seconds


class TestContract(Stores, QuotaStoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, running):
        self.clock, self.url = Clock(), running.url


class TestContractInOneSlot(Stores, QuotaStoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, cluster):
        self.clock, self.url = Clock(), cluster.url


def use(url, scenario, *, prefix=None, **settings):
    """Run a scenario with a store, in an event loop of its own."""

    async def main():
        server = RedisServer(url, prefix=prefix or next(NAMES), answer_seconds=10, pause_seconds=0.05)
        try:
            return await scenario(RedisQuotas(server, **settings))
        finally:
            await server.aclose()

    return run(main())


async def until_held(store, permit_id, charges):
    async with asyncio.timeout(20):
        while True:
            try:
                if await store.reserve(permit_id, charges) is None:
                    return
            except StoreUnavailable:
                pass
            await asyncio.sleep(0.02)


def left(server, prefix):
    """Everything that is kept under a prefix, and how much of it."""
    names = server.ask("keys", f"*{prefix}:*").split()
    return {name.rpartition("}:")[2]: _size(server, name) for name in names}


def _size(server, name):
    return int(server.ask({"hash": "hlen", "zset": "zcard"}[server.ask("type", name)], name))


# Settings and values


def test_it_is_a_store_of_ours(running):
    store = RedisQuotas(running.url, permit_ttl_seconds=7)
    assert isinstance(store, QuotaKeeper)
    assert quota_store(store) is store
    assert store.permit_ttl_seconds == 7
    assert repr(store) == f"<RedisQuotas in <RedisServer {running.url}>>"
    with pytest.raises(ConfigurationError, match="permit_ttl_seconds"):
        RedisQuotas(running.url, permit_ttl_seconds=0)


def test_it_disconnects_what_it_made(running):
    async def scenario():
        store = RedisQuotas(running.url)
        await store.open()
        await store.aclose()
        assert store._server._lines == {}

    run(scenario())


@pytest.mark.parametrize("amount", [2**50, 2**52, 2**53 + 1, 10**400])
def test_the_largest_amounts(running, amount):
    """Every number of the arithmetic is exact, and what is larger than any fits nowhere."""

    async def scenario(store):
        largest = Limit("cost", 2**50, per="month")
        denial = await store.reserve("p", [Charge("t", largest, amount)])
        assert (denial is None) == (amount <= 2**50)
        if denial is not None:
            assert denial.charge.amount == amount
            assert await store.reserve("p", [Charge("t", largest, 2**50)]) is None
        await store.settle("p", {"cost": 2**50 - 1})
        assert await store.reserve("q", [Charge("t", largest, 2)]) is not None
        assert await store.reserve("r", [Charge("t", largest, 1)]) is None
        await store.settle("r", {"cost": amount})
        assert next(iter(store.seen([Charge("t", largest)]).values()))[1] == min(2**50 - 1 + amount, 2**52)

    use(running.url, scenario)


def test_odd_names_stay_apart(running):
    async def scenario(store):
        limit = Limit("concurrency", 1)
        names = ["a", "a:", "1:a", "", "ü", 'x"\\\n', "a\0", "concurrency", "{a}", " "]
        for name in names:
            assert await store.reserve(f"{name}\n", [Charge(name, limit)]) is None
        for name in names:
            assert await store.reserve(f"q{name}", [Charge(name, limit)]) is not None
            assert await store.rename(f"{name}\n", f"new\n{name}", 60)
            await store.release(f"new\n{name}")
            assert await store.reserve(f"q{name}", [Charge(name, limit)]) is None

    use(running.url, scenario)


def test_what_was_seen_is_what_the_server_said(running):
    async def scenario(store):
        charges = [Charge("team:a", limit) for limit in (AT_ONCE, PER_HOUR, PER_MONTH)]
        assert store.seen(charges) == {}
        await store.reserve("p", charges)
        seen = store.seen(charges)
        assert seen == await store.levels(charges)
        assert [seen[charge.slot][1] for charge in charges] == [1, PER_HOUR.span, 1]
        await store.settle("p", {"audio_seconds": 40})
        seen = store.seen(charges)
        assert (seen[charges[0].slot][1], seen[charges[2].slot][1]) == (0, 40)

    use(running.url, scenario)


# Windows and the server's clock


def test_a_clock_that_is_far_from_the_servers_learns_its_windows(running):
    """The server says what time it is, and is given the windows around that."""

    async def scenario(store):
        for ahead in (-400 * 86400, 400 * 86400):
            store._ahead = ahead * 10**6
            charges = [Charge(f"team:{ahead}", Limit("cost", 5, per=per)) for per in ("day", "week", "month")]
            assert await store.reserve(f"p{ahead}", charges) is None
            assert abs(store._ahead) < 60 * 10**6
            denial = await store.reserve(f"q{ahead}", [Charge(f"team:{ahead}", charges[0].limit, 5)])
            assert 0 < denial.retry_after <= 86400

    use(running.url, scenario)


def test_a_job_is_settled_many_windows_later_by_a_process_that_knows_nothing_of_it(running):
    clock, prefix = Clock(), next(NAMES)
    charges = [Charge("team:a", Limit("audio_seconds", 100, per=per)) for per in ("day", "week", "month")]

    async def submit(store):
        assert await store.reserve("request", charges) is None
        assert await store.rename("request", "job", 300 * 86400)

    async def settle(store):
        await store.settle("job", {"audio_seconds": 30})
        for charge in charges:
            level = (await store.levels([charge]))[charge.slot]
            assert level[1] == 29
            assert level[2] == charge.limit.calendar.window(int(clock.now * 1e6))[0]

    use(running.url, submit, clock=clock, prefix=prefix)
    clock.now += 250 * 86400
    use(running.url, settle, clock=clock, prefix=prefix)


def test_by_the_servers_clock(running):
    """Rates drain and permits expire without anybody's clock."""

    async def scenario(store):
        rate = Charge("team:a", Limit("requests", 10, per="second"), 10)
        held = Charge("team:a", Limit("concurrency", 1))
        assert await store.reserve("p", [rate, held]) is None
        denial = await store.reserve("q", [rate])
        assert 0.5 < denial.retry_after <= 1
        await until_held(store, "q", [held])
        assert not await store.renew("p")
        await until_held(store, "r", [rate])

    use(running.url, scenario, permit_ttl_seconds=0.3)


@pytest.mark.parametrize("back", [0.4, 0.9, 1.1, 30, 61, 3601, 86_400, 3 * 86_400, 40 * 86_400])
def test_a_clock_that_goes_back_counts_as_in_memory(running, back):
    """A replica that takes over may be behind; nothing is given back for it, and nobody is shut out for long."""
    clock = Clock()
    clock.now = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + 0.75
    settings = {"clock": clock, "permit_ttl_seconds": 10**9}
    memory = MemoryQuotas(**settings)
    limits = [
        Limit("requests", 50, per="second"),
        Limit("upload_bytes", 10**11, per="minute"),
        Limit("requests", 70, per="hour"),
        *(Limit("cost", 90, per=per) for per in ("day", "week", "month")),
    ]
    charges = [Charge("team", limit, 20) for limit in limits]

    async def scenario(store):
        for number, seconds in enumerate((0, -back, 0.3, 0.3, -back, 0.3, -back)):
            clock.now += seconds
            for one in (memory, store):
                await one.settle(f"p{number - 2}", {"requests": 11, "cost": 5})
            denials = [await one.reserve(f"p{number}", charges) for one in (memory, store)]
            assert denials[0] == denials[1]
            assert await store.levels(charges) == await memory.levels(charges)

    use(running.url, scenario, **settings)


def test_a_rename_whose_answer_was_lost_is_repeated(running):
    async def scenario(store):
        await store.reserve("p", [Charge("t", AT_ONCE)])
        assert await store.rename("p", "job", 60)
        assert await store.rename("p", "job", 60)
        await store.settle("job", {})
        assert not await store.rename("p", "job", 60)

    use(running.url, scenario)


# What remains


def test_nothing_remains_of_what_is_over(running):
    clock, prefix = Clock(), next(NAMES)

    async def scenario(store):
        limits = (AT_ONCE, Limit("requests", 9, per="minute"), Limit("cost", 9, per="day"))
        for number in range(60):
            await store.reserve(f"p{number}", [Charge(f"team:{number}", limit) for limit in limits])
            if number % 3:
                await store.settle(f"p{number}", {})
        assert left(running, prefix) == {"levels": 140, "idle": 120, "permits": 20, "expiries": 20}
        clock.now += 3 * 86400
        for number in range(20):
            await store.reserve(f"q{number}", [Charge("team:q", AT_ONCE)])
            await store.release(f"q{number}")
        assert left(running, prefix) == {}

    use(running.url, scenario, clock=clock, prefix=prefix)


@pytest.mark.parametrize("steps", range(8))
def test_a_reservation_whose_caller_is_cancelled_holds_nothing(running, steps):
    prefix = next(NAMES)

    async def scenario(store):
        charges = [Charge("team:a", AT_ONCE), Charge("team:a", PER_MONTH)]
        tasks = [asyncio.create_task(store.reserve(f"p{number}", charges)) for number in range(5)]
        for _ in range(steps):
            await asyncio.sleep(0 if steps < 5 else 0.0003)
        cancelled = [task for task in tasks if task.cancel()]
        await asyncio.wait(tasks)
        held = len(tasks) - len(cancelled)
        await store.renew("p0")  # comes after what is waiting
        assert [level[1] for level in (await store.levels(charges)).values()] == [held, held]

    use(running.url, scenario, prefix=prefix)


def test_an_end_happens_although_its_caller_is_cancelled(running):
    async def scenario(store):
        charges = [Charge("team:a", AT_ONCE)]
        await asyncio.gather(*(store.reserve(f"p{number}", charges) for number in range(20)))
        ends = [store.release(f"p{number}") if number % 2 else store.settle(f"p{number}", {}) for number in range(20)]
        tasks = [asyncio.create_task(end) for end in ends]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await store.renew("p0")
        assert (await store.levels(charges))[charges[0].slot][1] == 0

    use(running.url, scenario)


# Several processes

WORKER = """
import asyncio, sys
from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.stores.redis import RedisQuotas, RedisServer

LIMITS = [
    Limit("concurrency", 100), Limit("requests", 100, per="hour"), Limit("cost", 100, per="month"),
]

async def main(url, prefix, name, ttl):
    server = RedisServer(url, prefix=prefix, answer_seconds=10)
    store = RedisQuotas(server, permit_ttl_seconds=ttl)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        verb, subject, count = words[0], words[1], int(words[2])
        permits = [f"{subject}-{name}-{number}" for number in range(count)]
        if verb == "reserve":
            charges = [Charge(subject, limit, int(words[4])) for limit in LIMITS[int(words[3]):]]
            # One after the other: those that wait at the same time share a round trip, which nobody comes between.
            outcomes = [await store.reserve(permit, charges) for permit in permits]
        else:
            outcomes = [None if renewed else 0 for renewed in await asyncio.gather(*map(store.renew, permits))]
        print(outcomes.count(None), flush=True)
    await server.aclose()

asyncio.run(main(*sys.argv[1:4], float(sys.argv[4])))
"""


class Workers:
    def __init__(self, url, count, ttl=120.0):
        root, prefix = Path(__file__).parents[2], next(NAMES)
        self.prefix = prefix
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WORKER, url, prefix, str(number), str(ttl)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=root,
            )
            for number in range(count)
        ]

    def all(self, *words):
        """Have all do something at the same time; how often each was granted."""
        for process in self.processes:
            print(*words, file=process.stdin, flush=True)
        return [int(process.stdout.readline()) for process in self.processes]

    def one(self, number, *words):
        process = self.processes[number]
        print(*words, file=process.stdin, flush=True)
        return int(process.stdout.readline())

    def end(self):
        for process in self.processes:
            with process:
                process.kill()


@pytest.fixture
def workers(running):
    started = []

    def start(*args):
        started.append(Workers(running.url, *args))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_eight_processes_race_for_a_hundred(workers):
    """200 rounds for one limit, two or three at once: each time exactly 100 are granted, of more that are asked for."""
    racing = workers(8)
    granted = []
    for number in range(200):
        amount, attempts = (1, 14) if number % 40 == 0 else (5, 3)
        counts = racing.all("reserve", f"round-{number}", attempts, number % 3, amount)
        granted.append(sum(counts) * amount)
    assert granted == [100] * 200


def test_the_slots_of_a_killed_worker_come_back_once(workers, running):
    """Neither before their time, nor twice; those of the living stay theirs."""
    crew = workers(2, 1.5)
    assert crew.one(0, "reserve", "team", 60, 0, 1) == 60
    assert crew.one(1, "reserve", "team", 60, 0, 1) == 40
    crew.processes[0].kill()
    crew.processes[0].wait(20)

    async def scenario(store):
        one = [Charge("team", AT_ONCE)]
        assert await store.reserve("early", one) is not None
        granted = 0
        async with asyncio.timeout(30):
            # Each expires by itself, as it was made.
            while granted < 60:
                granted += await store.reserve(f"late-{granted}", one) is None
                assert crew.one(1, "renew", "team", 60) == 40
        await asyncio.sleep(0.3)
        assert crew.one(1, "renew", "team", 60) == 40
        assert await store.reserve("one too many", one) is not None
        # What it used per window stays used.
        assert await store.reserve("w", [Charge("team", PER_HOUR)]) is not None

    use(running.url, scenario, prefix=crew.prefix)


# Failures


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_counts_outlive_a_server_that_writes_them_down(how):
    prefix = next(NAMES)
    charges = [Charge("team", AT_ONCE, 60), Charge("team", PER_MONTH, 60)]

    async def before(store):
        assert await store.reserve("p", charges) is None

    async def after(store):
        assert await store.reserve("q", [Charge("team", PER_MONTH, 41)]) is not None
        await store.settle("p", {"audio_seconds": 20})
        assert await store.reserve("q", [Charge("team", PER_MONTH, 80), Charge("team", AT_ONCE, 100)]) is None

    with redis_server(appendonly="yes", appendfsync="always") as own:
        use(own.url, before, prefix=prefix)
        getattr(own, how)()
        own.start()
        use(own.url, after, prefix=prefix)


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])
def test_an_outage_under_load_refuses_and_leaves_right_counts(how):
    """Every reservation is held, denied or refused; what was in doubt is over when its time to live is."""
    limit = Limit("concurrency", 10)
    held = set()

    async def work(store, number, ended):
        outcomes = []
        while not ended.is_set():
            permit = f"{number}-{len(outcomes)}"
            try:
                denial = await store.reserve(permit, [Charge("team", limit)])
                outcomes.append("denied" if denial else "held")
                if denial is None:
                    held.add(permit)
                    assert len(held) <= 10
                    await asyncio.sleep(0.001)
                    held.discard(permit)
                    await store.release(permit)
            except StoreUnavailable:
                outcomes.append("refused")
            await asyncio.sleep(0.005)
        return outcomes

    async def scenario(store):
        ended = asyncio.Event()
        work_going_on = [asyncio.create_task(work(store, number, ended)) for number in range(15)]
        await asyncio.sleep(0.3)
        getattr(own, how)()
        await asyncio.sleep(0.5)
        own.resume() if how == "pause" else own.start()
        await until_held(store, "whoever", [Charge("another team", limit)])
        await asyncio.sleep(0.5)
        ended.set()
        outcomes = [outcome for outcomes in await asyncio.gather(*work_going_on) for outcome in outcomes]
        assert set(outcomes) == {"held", "denied", "refused"}
        await until_held(store, "all", [Charge("team", limit, 10)])
        assert await store.reserve("more", [Charge("team", limit)]) is not None

    async def main():
        server = RedisServer(own.url, answer_seconds=0.2, connect_seconds=0.2, pause_seconds=0.05)
        try:
            await scenario(RedisQuotas(server, permit_ttl_seconds=1))
        finally:
            await server.aclose()

    with redis_server(appendonly="yes", appendfsync="always") as own:
        run(main())


def test_what_could_not_be_told_is_told_when_the_server_is_back():
    """A blip costs nobody a slot for the time to live of what ended in it."""
    charges = [Charge("team", AT_ONCE, 10), Charge("team", PER_MONTH, 10)]

    async def scenario(store):
        for number in range(9):
            assert await store.reserve(f"p{number}", charges) is None
        own.stop()
        for number in range(8):
            with pytest.raises(StoreUnavailable):
                await (store.release(f"p{number}") if number % 2 else store.settle(f"p{number}", {"audio_seconds": 3}))
        for permit in ("unsure", "asked-again"):
            with pytest.raises(StoreUnavailable):
                await store.reserve(permit, charges)
        own.start()
        await until_held(store, "asked-again", charges)
        await store.renew("whoever")  # comes after what was owed
        levels = await store.levels(charges)
        # p8 and the one that was asked for again; what was settled is counted as it was used.
        assert [level[1] for level in levels.values()] == [20, 20 + 4 * 3]
        assert not store._owed

    with redis_server(appendonly="yes") as own:
        use(own.url, scenario)


def test_what_is_owed_is_bounded(monkeypatch):
    monkeypatch.setattr("keypool_asgi.stores.redis.quotas._OWED", 5)

    async def scenario(store):
        for number in range(20):
            with pytest.raises(StoreUnavailable):
                await store.settle(f"p{number}", {})
        assert list(store._owed) == [f"p{number}" for number in range(15, 20)]

    use(f"redis://127.0.0.1:{free_port()}", scenario)


@pytest.mark.parametrize(
    ("on_store_failure", "expected"), [("refuse", {}), ("allow", {"held": 16}), ("share", {"held": 5, "denied": 11})]
)
def test_what_the_operator_wants_while_the_server_is_away(on_store_failure, expected):
    """Refused, admitted, or held to this process's share of the limit; and right counts when the server is back."""
    limit = Limit("concurrency", 10)
    charges = [Charge("team", limit), Charge("team", PER_MONTH)]

    async def attempt(store, permit):
        try:
            return "denied" if await store.reserve(permit, charges) else "held"
        except StoreUnavailable:
            return "refused"

    async def scenario(redis):
        share = 0.5 if on_store_failure == "share" else None
        store = with_failover(redis, on_store_failure, share)
        assert await asyncio.gather(*(attempt(store, f"p{number}") for number in range(4))) == ["held"] * 4
        own.kill()
        outcomes = await asyncio.gather(*(attempt(store, f"q{number}") for number in range(16)))
        assert Counter(outcomes) == (expected or {"refused": 16})
        ends = (store.settle(f"{name}{number}", {}) for name in "pq" for number in range(16))
        await asyncio.gather(*ends, return_exceptions=True)
        own.start()
        await until_held(redis, "back", [Charge("another", limit)])
        await redis.renew("back")
        # None of the four has its slot any more, and nothing of what was decided without the server is in it.
        levels = await redis.levels(charges)
        assert [level[1] for level in levels.values()] == [0, 4]
        async with asyncio.timeout(20):
            while await attempt(store, "last") != "held" or getattr(store, "failing", False):
                await store.release("last")
                await asyncio.sleep(0.1)
        assert await redis.renew("last"), "the server decides again"

    with redis_server(appendonly="yes", appendfsync="always") as own:
        use(own.url, scenario)


def test_without_an_append_only_file_limits_begin_anew(caplog):
    async def scenario(store):
        assert await store.reserve("p", [Charge("team", AT_ONCE, 100)]) is None
        own.kill()
        own.start()
        assert not await store.renew("p")
        await store.settle("p", {})
        assert await store.reserve("q", [Charge("team", AT_ONCE, 100)]) is None

    with redis_server() as own:
        use(own.url, scenario)


def test_memory_and_redis_name_the_same_denial(running):
    """Of several limits that do not fit, the one that frees last; never one that can never fit as if it could."""
    memory = MemoryQuotas()
    hourly, daily = Charge("t", Limit("requests", 1, per="hour")), Charge("t", Limit("requests", 1, per="day"))
    never = Charge("t", Limit("requests", 1, per="minute"), 2)

    async def scenario(store):
        for one in (memory, store):
            assert await one.reserve("p", [hourly, daily]) is None
        for charges in ([hourly, daily], [daily, hourly], [hourly, never], [never], [hourly, hourly]):
            mine, theirs = [await one.reserve("q", charges) for one in (memory, store)]
            assert mine.charge == theirs.charge
            assert (mine.retry_after is None) == (theirs.retry_after is None)

    use(running.url, scenario)
