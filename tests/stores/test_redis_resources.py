"""Resources in Redis: the contract, one hash slot, several processes, restarts, lists by index, cache and purging."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from harness import run
from harness.redis import redis_server
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.errors import ConfigurationError, StoreUnavailable
from keypool_asgi.ports import ResourceStore
from keypool_asgi.stores.redis.resources import RedisResources, _encoded
from keypool_asgi.stores.redis.server import RedisServer
from keypool_asgi.stores.resources import resource_store
from keypool_asgi.testing.contracts import ResourceStoreContract

from .resource_tools import Clock, ids, transcript

A = Ref("transcript", "a")
NAMES = (f"resources-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster():
    """One node that has every slot: it refuses scripts whose keys lie in several."""
    with redis_server(cluster_enabled="yes") as running:
        running.join_alone()
        yield running


class Stores:
    def make_store(self):
        return RedisResources(RedisServer(self.url, prefix=next(NAMES), answer_seconds=10), clock=self.clock)

    async def close_store(self, store):
        await store._server.aclose()

    def advance(self, seconds):
        self.clock.now += seconds


class TestContract(Stores, ResourceStoreContract):
    stories = 3

    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.clock, self.url = Clock(), server.url


class TestContractInOneSlot(Stores, ResourceStoreContract):
    stories = 1

    @pytest.fixture(autouse=True)
    def _server(self, cluster):
        self.clock, self.url = Clock(), cluster.url


class Story(Stores, ResourceStoreContract):
    def __init__(self, url):
        self.clock, self.url = Clock(), url


@given(chance=st.randoms(use_true_random=False), steps=st.integers(1, 60), moving=st.booleans())
@settings(max_examples=15, deadline=None)
def test_it_behaves_like_a_naive_model(server, chance, steps, moving):
    Story(server.url).tell(chance, steps=steps, moving=moving)


def use(url, scenario, *, prefix=None, **settings):
    """Run a scenario with a store, in an event loop of its own."""

    async def main():
        server = RedisServer(url, prefix=prefix or next(NAMES), answer_seconds=10)
        try:
            return await scenario(RedisResources(server, **settings))
        finally:
            await server.aclose()

    return run(main())


# Settings and values


def test_it_is_a_store_of_ours(server):
    store = RedisResources(server.url)
    assert isinstance(store, ResourceStore)
    assert resource_store(store) is store
    assert repr(store) == f"<RedisResources in <RedisServer {server.url}>>"


@pytest.mark.parametrize("wrong", [{"cursor_seconds": 0}, {"retention": {"upload": -1}}])
def test_it_checks_its_settings(wrong):
    with pytest.raises(ConfigurationError, match="resources: "):
        RedisResources("redis://localhost", **wrong)


def test_several_users_of_one_server(server):
    """It is disconnected by whoever made it."""

    async def scenario():
        shared = RedisServer(server.url, prefix=next(NAMES))
        first, second = RedisResources(shared), RedisResources(shared)
        await first.record(transcript("a"))
        await first.aclose()
        assert len(shared._lines) == 1
        assert await second.find(A) == transcript("a")
        await shared.aclose()
        own = RedisResources(server.url)
        await own.open()
        await own.aclose()
        assert own._server._lines == {}

    run(scenario())


@given(st.lists(st.tuples(st.floats(allow_nan=False), st.text(alphabet="aé\0\U0001f600|}", max_size=3)), min_size=2))
def test_places_stand_in_the_order_of_their_bytes(places):
    assert sorted(places) == [place for _, place in sorted((_encoded(place), place) for place in places)]


def test_odd_names_stay_apart(server):
    """Whatever a team or a status is called, it is in no list but its own."""
    teams = ["a", "a|", "a=1:b|", "*", "@1:a", "", "}", "ü", "a\0", '"\\', "{x}"]

    async def scenario(store):
        for number, team in enumerate(teams):
            await store.record(Resource(Ref("agent", f"id-{number}"), team, "p", 1.0, team))
        for number, team in enumerate(teams):
            own = await store.page(Page("agent", 99, team=team))
            assert own == await store.page(Page("agent", 99, statuses=frozenset({team})))
            assert own == [Resource(Ref("agent", f"id-{number}"), team, "p", 1.0, team)]
        assert len(await store.page(Page("agent", 99, statuses=frozenset(teams)))) == len(teams)

    use(server.url, scenario)


def test_what_cannot_be_text_is_refused_without_its_data(server, caplog):
    async def scenario(store):
        with pytest.raises(StoreUnavailable):
            await store.record(transcript("the data \ud800"))
        with pytest.raises(StoreUnavailable):
            await store.record(transcript("b", team="the data \ud800"))
        await store.record(transcript("a"))

    use(server.url, scenario)
    assert "UnicodeEncodeError" in caplog.text
    assert "the data" not in caplog.text


# What outlives what


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_owners_outlive_a_server_that_writes_them_down(how):
    async def before(store):
        await store.record(transcript("a"))
        await store.record(transcript("b", created=6.0))
        await store.note(A, "completed", '{"x": 1}')
        await store.forget(Ref("transcript", "b"))

    async def after(store):
        found = await store.find(A)
        assert (found.status, found.summary) == ("completed", '{"x": 1}')
        assert await store.place(Ref("transcript", "b"), "team-a") == (6.0, "b")
        assert ids(await store.page(Page("transcript", 10))) == "a"

    with redis_server(appendonly="yes", appendfsync="always") as own:
        use(own.url, before, prefix="p")
        getattr(own, how)()
        own.start()
        use(own.url, after, prefix="p")


PROCESS = """
import asyncio, sys
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.stores.redis import RedisResources, RedisServer

async def main(url, prefix, name, count):
    server = RedisServer(url, prefix=prefix, answer_seconds=10)
    store = RedisResources(server)
    async def one(number):
        ref = Ref("transcript", f"{name}-{number}")
        await store.record(Resource(ref, name, "p", float(number), "queued"))
        print(ref.id, flush=True)
        await store.note(ref, "completed", "{}")
        await store.record(Resource(Ref("upload", f"shared-{number}"), name, "p", float(number)))
        assert (await store.find(ref)).status == "completed"
        assert (await store.page(Page("transcript", 1, team=name))) != []
    number = 0
    while number < count:
        await asyncio.gather(*(one(n) for n in range(number, number + 10)))
        number += 10
    await server.aclose()

asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
"""


@pytest.fixture
def start(server):
    """Start a process that records so many resources of a team, and prints what it has recorded."""
    started = []

    def start(prefix, name, count):
        arguments = [sys.executable, "-W", "error", "-c", PROCESS, server.url, prefix, name, str(count)]
        root = Path(__file__).parents[2]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_two_processes_agree_on_every_owner(server, start):
    prefix = next(NAMES)
    processes = [start(prefix, name, 150) for name in ("p1", "p2")]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    for output, errors, status in results:
        assert (errors, status) == ("", 0)
        assert len(output.split()) == 150

    async def scenario(store):
        for name in ("p1", "p2"):
            assert len(await store.page(Page("transcript", 999, team=name))) == 150
        shared = [len(await store.page(Page("upload", 999, team=name))) for name in ("p1", "p2", None)]
        assert shared[0] + shared[1] == shared[2] == 150

    use(server.url, scenario, prefix=prefix)


def test_what_was_acknowledged_outlives_the_process(server, start):
    prefix = next(NAMES)
    process = start(prefix, "killed", 1_000_000)
    acknowledged = [process.stdout.readline() for _ in range(60)]
    process.kill()
    process.communicate(timeout=30)

    async def scenario(store):
        for line in acknowledged:
            assert (await store.find(Ref("transcript", line.strip()))).team == "killed"
        listed = {one.ref.id for one in await store.page(Page("transcript", 100_000, team="killed"))}
        assert listed >= {line.strip() for line in acknowledged}

    use(server.url, scenario, prefix=prefix)


@pytest.mark.parametrize("steps", range(4))
def test_a_write_happens_although_its_caller_is_cancelled(server, steps):
    async def scenario(store):
        await store.record(transcript("b"))
        tasks = [asyncio.create_task(store.record(transcript(f"t{number}"))) for number in range(20)]
        tasks.append(asyncio.create_task(store.forget(Ref("transcript", "b"))))
        tasks.append(asyncio.create_task(store.find(A)))
        await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert len(await store.page(Page("transcript", 100))) == 20
        assert await store.find(Ref("transcript", "b")) is None

    use(server.url, scenario)


# The cache


def test_find_believes_itself_for_a_while_only(server):
    prefix = next(NAMES)

    async def scenario(store):
        other = RedisResources(RedisServer(server.url, prefix=prefix), cache_seconds=0.05)
        for one in (store, other):
            assert await one.find(A) is None
        await store.record(transcript("a"))
        assert await other.find(A) == transcript("a")  # what was not found is looked up again
        await store.forget(A)
        assert await store.find(A) is None
        assert await other.place(A, "team-a") == (5.0, "a")
        assert await other.page(Page("transcript", 10)) == []
        await asyncio.sleep(0.1)
        assert await other.find(A) is None
        await other._server.aclose()

    use(server.url, scenario, prefix=prefix)


def test_find_asks_the_server_once(server):
    clock = Clock()

    async def scenario(store):
        await store.record(transcript("a"))
        assert await store.find(A) == transcript("a")
        store._server.call = None
        assert await store.find(A) == transcript("a")
        clock.now += store.retention["transcript"]
        with pytest.raises(TypeError):
            await store.find(A)

    use(server.url, scenario, clock=clock)


def test_what_was_found_before_a_change_is_not_believed_after_it(server):
    """The change was asked for while the answer was on its way."""

    async def scenario(store):
        for number in range(50):
            ref = Ref("transcript", f"r{number}")
            await store.record(transcript(ref.id))
            finding = asyncio.create_task(store.find(ref))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            await asyncio.gather(store.note(ref, "completed", "{}"), finding)
            assert (await store.find(ref)).status == "completed"
            await asyncio.gather(store.find(ref), store.forget(ref), store.find(ref))
            assert await store.find(ref) is None

    use(server.url, scenario)


# Lists


def test_a_page_costs_what_it_shows(server):
    """Others' resources are not looked at: 50 times as many of them are not one look-up more."""

    def looks():
        line = next(
            line for line in server.ask("info", "commandstats").splitlines() if line.startswith("cmdstat_hget:")
        )
        return int(line.partition("calls=")[2].partition(",")[0])

    async def scenario(store):
        costs = []
        for first, end in ((0, 40), (40, 2000)):
            others = (transcript(f"t{n}", f"team-{n % 9}", float(n), "completed") for n in range(first, end))
            await asyncio.gather(*(store.record(one) for one in others))
            for number in range(3):
                await store.record(transcript(f"mine{number}", "mine", 20.0 + number))
            for page in (
                Page("transcript", 10, team="mine"),
                Page("transcript", 2, team="mine", before=(21.0, "x")),
                Page("transcript", 2, team="mine", after=(1.0, "")),
                Page("transcript", 10, team="mine", statuses=frozenset({"queued", "error"})),
                Page("transcript", 3, since=4.0, until=30.0),
                Page("transcript", 3, statuses=frozenset({"queued"})),
            ):
                before = looks()
                found = await store.page(page)
                costs.append((len(found), looks() - before))
        assert costs[: len(costs) // 2] == costs[len(costs) // 2 :]
        assert all(cost == shown for shown, cost in costs)

    use(server.url, scenario)


# Retention


def test_what_has_expired_is_purged_by_and_by(server):
    clock, prefix = Clock(), next(NAMES)

    def left():
        names = server.ask("keys", f"*{prefix}:*").split()
        return {name.rpartition("}:")[2]: _size(server, name) for name in names if "transcript" in name}

    async def scenario(store):
        async def record(text, count):
            await asyncio.gather(*(store.record(transcript(f"{text}{number}")) for number in range(count)))

        await record("old", 300)
        await asyncio.gather(*(store.forget(Ref("transcript", f"old{number}")) for number in range(100)))
        await store.record(Resource(Ref("agent", "kept"), "team-a", "p", 1.0))
        assert left() == {"bodies": 200, "lists": 800, "ages": 200, "left": 100, "left_ages": 100}
        clock.now += store.retention["transcript"]
        await record("a", 20)
        assert 100 < left()["bodies"] < 200
        await record("b", 80)
        assert left() == {"bodies": 100, "lists": 400, "ages": 100}
        assert await store.find(Ref("agent", "kept")) is not None

    use(server.url, scenario, clock=clock, prefix=prefix)


def _size(server, name):
    return int(server.ask({"hash": "hlen", "zset": "zcard"}[server.ask("type", name)], name))


def test_a_page_drops_what_has_expired_in_its_way(server):
    clock = Clock()

    async def scenario(store):
        await asyncio.gather(*(store.record(transcript(f"old{n:03}", created=900.0 + n)) for n in range(100)))
        clock.now += store.retention["transcript"]
        await asyncio.gather(*(store.record(transcript(f"new{n}", created=float(n))) for n in range(5)))
        assert ids(await store.page(Page("transcript", 2))) == "new4 new3"
        assert ids(await store.page(Page("transcript", 2, after=(0.0, "new0")))) == "new2 new1"

    use(server.url, scenario, clock=clock)


def test_a_shorter_retention_holds_for_what_was_recorded_before(server):
    clock, prefix = Clock(), next(NAMES)

    async def record(store):
        await store.record(transcript("a"))

    async def is_known(store):
        return await store.find(A) is not None

    use(server.url, record, clock=clock, prefix=prefix)
    clock.now += 100
    assert use(server.url, is_known, clock=clock, prefix=prefix)
    assert not use(server.url, is_known, clock=clock, prefix=prefix, retention={"transcript": 100})


def test_by_the_servers_clock(server):
    async def scenario(store):
        await store.record(transcript("a"))
        await store.forget(A)
        await store.record(transcript("b"))
        assert await store.place(A, None) == (5.0, "a")
        await asyncio.sleep(0.3)
        assert await store.find(Ref("transcript", "b")) is None
        assert await store.place(A, None) is None
        await store.record(transcript("b", "team-b"))
        assert (await store.find(Ref("transcript", "b"))).team == "team-b"

    use(server.url, scenario, retention={"transcript": 0.25}, cursor_seconds=0.25)
