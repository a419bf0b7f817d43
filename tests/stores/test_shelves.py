"""Resources in memory in depth: against a naive model, its bounds, and the cost of its lists."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.errors import ConfigurationError
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.testing.contracts import ResourceStoreContract

from .resource_tools import Clock, drive, ids, transcript

DAY = 86400.0


class MemoryContract(ResourceStoreContract):
    def __init__(self):
        self.clock = Clock()

    def make_store(self):
        return MemoryResources(clock=self.clock)

    def advance(self, seconds):
        self.clock.now += seconds


@given(chance=st.randoms(use_true_random=False), steps=st.integers(1, 80), moving=st.booleans())
@settings(max_examples=100, deadline=None)
def test_memory_behaves_like_a_naive_model(chance, steps, moving):
    MemoryContract().tell(chance, steps=steps, moving=moving)


class Wrong(MemoryResources):
    """Breaks one sentence of the port."""

    def __init__(self, fault, clock):
        super().__init__(clock=clock)
        self.fault = fault

    async def record(self, resource):
        if self.fault == "the last word stands":
            await super().forget(resource.ref)
        await super().record(resource)

    async def forget(self, ref):
        await super().forget(ref)
        if self.fault == "forgets the place":
            self._left.clear()

    async def page(self, page):
        if self.fault == "shows everybody's":
            page = replace(page, team=None)
        elif self.fault == "after gives the newest" and page.after is not None:
            everything = await super().page(replace(page, limit=1000))
            return everything[: page.limit]
        elif self.fault == "ignores statuses":
            page = replace(page, statuses=None)
        return await super().page(page)


@pytest.mark.parametrize(
    "fault",
    ["the last word stands", "forgets the place", "shows everybody's", "after gives the newest", "ignores statuses"],
)
def test_the_model_finds_faults(fault):
    class Contract(MemoryContract):
        def make_store(self):
            return Wrong(fault, self.clock)

    with pytest.raises(AssertionError):
        Contract().test_behaves_like_a_naive_model()


@pytest.mark.parametrize(
    "wrong",
    [{"max_entries": 0}, {"cursor_seconds": 0}, {"retention": {"upload": -1}}, {"retention": {"x": float("nan")}}],
)
def test_memory_checks_its_settings(wrong):
    with pytest.raises(ConfigurationError, match="resources: "):
        MemoryResources(**wrong)


def test_memory_never_yields():
    store = MemoryResources()
    assert drive(store.record(transcript("a"))) is None
    assert drive(store.note(Ref("transcript", "a"), "completed", "{}")) is None
    assert drive(store.find(Ref("transcript", "a"))) == transcript("a", status="completed")
    assert drive(store.place(Ref("transcript", "a"), None)) == (5.0, "a")
    assert ids(drive(store.page(Page("transcript", 1)))) == "a"
    assert drive(store.forget(Ref("transcript", "a"))) is None


def test_memory_forgets_the_oldest_of_the_commonest_kind_and_says_so_once(caplog):
    """A flood of one kind costs that kind alone."""
    store = MemoryResources(max_entries=4)
    drive(store.record(Resource(Ref("agent", "old"), "team-a", "p", 99.0)))
    for number in range(4):
        drive(store.record(transcript(f"t{number}", created=100.0 - number)))
    assert drive(store.find(Ref("agent", "old"))) is not None
    assert ids(drive(store.page(Page("transcript", 10)))) == "t1 t2 t3"
    drive(store.record(transcript("t1")))  # known: nothing has to go
    assert ids(drive(store.page(Page("transcript", 10, team="team-a")))) == "t1 t2 t3"
    assert len(caplog.records) == 1
    assert "max_entries=4" in caplog.text
    assert "t0" not in caplog.text


def test_memory_is_bounded(caplog):
    store = MemoryResources(max_entries=100)
    for number in range(1000):
        drive(store.record(transcript(f"t{number}", f"team-{number}", number)))
        drive(store.forget(Ref("transcript", f"t{number}")))
        drive(store.record(Resource(Ref(f"kind-{number % 5}", f"t{number}"), "team-a", "p", 1.0)))
    assert repr(store) == "<MemoryResources: 100 owners, 100 forgotten>"
    assert sum(len(places) for shelf in store._shelves.values() for places in shelf._lists.values()) == 400


def test_memory_clears_away_what_has_expired():
    clock = Clock()
    store = MemoryResources(clock=clock, max_entries=10_000)
    for number in range(1000):
        drive(store.record(transcript(f"t{number}", created=number)))
        drive(store.record(Resource(Ref("upload", f"u{number}"), "team-a", "p", number)))
        drive(store.forget(Ref("upload", f"u{number}")))
    clock.now += 91 * DAY
    assert drive(store.page(Page("transcript", 10))) == []
    for number in range(20):
        drive(store.record(transcript(f"new{number}")))
    assert repr(store) == "<MemoryResources: 20 owners, 0 forgotten>"


def test_memory_keeps_its_lists_when_the_clock_is_set_back():
    clock = Clock()
    store = MemoryResources(clock=clock, retention={"transcript": 10})
    drive(store.record(transcript("a")))
    clock.now -= 100
    drive(store.record(transcript("b")))
    clock.now += 11
    assert drive(store.find(Ref("transcript", "b"))) is None
    assert ids(drive(store.page(Page("transcript", 10)))) == "a"
    drive(store.record(transcript("b", created=9.0)))
    assert ids(drive(store.page(Page("transcript", 10)))) == "b a"


def test_a_page_of_memory_costs_what_it_shows():
    """Neither others' resources, nor those in another status, are looked at."""
    store = MemoryResources(retention={})
    for number in range(20_000):
        drive(store.record(transcript(f"t{number}", f"team-{number % 3}", number, "completed")))
    for number in (10, 15_000):
        drive(store.record(transcript(f"mine{number}", "mine", number, "queued")))
    pages = [
        Page("transcript", 10, team="mine"),
        Page("transcript", 10, team="mine", statuses=frozenset({"queued", "error"})),
        Page("transcript", 10, statuses=frozenset({"queued"})),
        Page("transcript", 2, team="mine", before=(19_000.0, "")),
        Page("transcript", 10, team="mine", since=5.0, until=19_999.0),
    ]
    looked = []
    shelf = store._shelves["transcript"]
    shelf.find = lambda resource_id, now: looked.append(resource_id) or shelf.entries[resource_id].resource
    for page in pages:
        assert ids(drive(store.page(page))) == "mine15000 mine10"
    assert len(looked) == 2 * len(pages)
    start = time.perf_counter()
    for _ in range(100):
        drive(store.page(pages[2]))
    assert time.perf_counter() - start < 0.5
