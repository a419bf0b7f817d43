"""Resource stores: the contract for every way to pass one, memory in depth, and failing stores."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from unittest import SkipTest

import pytest

from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.errors import ConfigurationError, Forbidden, NotFound, StoreUnavailable
from keypool_asgi.ports import ResourceStore
from keypool_asgi.stores.resources import MemoryResources, ResourceCallbacks, resource_store
from keypool_asgi.testing.contracts import ResourceStoreContract

from .resource_tools import VERBS, Clock, drive, ids, transcript


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


def callbacks(store, verbs=VERBS):
    return ResourceCallbacks(**{verb: getattr(store, verb) for verb in verbs})


# Every way to pass a store whose truth is this memory.
WAYS = {
    "memory": lambda memory: memory,
    "sync callables": lambda memory: callbacks(Sync(memory)),
    "async callables": lambda memory: callbacks(Slow(memory)),
    "object": Slow,
    "sync object": Sync,
    "guarded twice": lambda memory: resource_store(Slow(memory)),
}


class TestContract(ResourceStoreContract):
    stories = 4

    @pytest.fixture(autouse=True, params=WAYS)
    def _way(self, request):
        self.way = WAYS[request.param]
        self.clock = Clock()

    def make_store(self):
        return resource_store(self.way(MemoryResources(clock=self.clock)))

    def advance(self, seconds):
        self.clock.now += seconds


class TestContractInItsDefaults:
    def test_gives_no_store(self):
        with pytest.raises(NotImplementedError):
            ResourceStoreContract().make_store()

    def test_skips_what_it_cannot_time(self):
        with pytest.raises(SkipTest):
            ResourceStoreContract().advance(1)
        with pytest.raises(SkipTest):
            ResourceStoreContract().test_behaves_like_a_naive_model_while_time_passes()

    def test_awaits_the_store_and_closes_it(self):
        closed = []

        class Contract(ResourceStoreContract):
            async def make_store(self):
                return resource_store()

            async def close_store(self, store):
                closed.append(store)

        Contract().test_the_first_word_stands()
        assert len(closed) == 1


# Ways to pass a store


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_a_store(way):
    assert isinstance(resource_store(WAYS[way](MemoryResources())), ResourceStore)


def test_a_store_of_ours_is_left_as_it_is():
    for store in (MemoryResources(), resource_store(callbacks(MemoryResources()))):
        assert resource_store(store) is store
    assert isinstance(resource_store(), MemoryResources)


@pytest.mark.parametrize(
    "value", ["memory", 5, {}, lambda: None, MemoryResources, object()], ids=lambda value: type(value).__name__
)
def test_anything_else_is_refused(value):
    with pytest.raises(ConfigurationError, match="resources: must be None, ResourceCallbacks, or an object"):
        resource_store(value)


def test_missing_methods_are_named():
    class Half:
        async def record(self, resource):
            return None

        async def find(self, ref):
            return None

    with pytest.raises(ConfigurationError, match="Half, which lacks note, forget, place, page"):
        resource_store(Half())


@pytest.mark.parametrize("wrong", [{"find": None}, {"record": 5}, {"page": "page"}])
def test_callbacks_must_be_callable(wrong):
    with pytest.raises(ConfigurationError, match=r"resources: .* must be callable"):
        ResourceCallbacks(**{"record": print, "find": print, **wrong})


def test_record_and_find_are_enough():
    owners = {}

    async def run():
        store = resource_store(ResourceCallbacks(record=lambda one: owners.setdefault(one.ref, one), find=owners.get))
        await store.record(transcript("a"))
        await store.note(Ref("transcript", "a"), "completed", "{}")
        await store.forget(Ref("transcript", "a"))
        assert await store.find(Ref("transcript", "a")) == transcript("a")
        assert await store.place(Ref("transcript", "a"), "team-a") == (5.0, "a")
        assert await store.place(Ref("transcript", "a"), None) == (5.0, "a")
        assert await store.place(Ref("transcript", "a"), "team-b") is None
        assert await store.place(Ref("transcript", "b"), None) is None
        with pytest.raises(NotFound, match="keeps no lists"):
            await store.page(Page("transcript", 10))

    asyncio.run(run())


# Stores that fail


def ours(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("keypool_asgi")]


def failing(times, *, asynchronous):
    """Return callables that raise so many times, and the calls they got."""
    calls = []

    def call(verb, *args):
        calls.append(verb)
        if len(calls) <= times:
            raise OSError("connection lost")

    async def call_async(verb, *args):
        call(verb, *args)

    function = call_async if asynchronous else call
    return ResourceCallbacks(**{verb: partial(function, verb) for verb in VERBS}), calls


ARGUMENTS = {
    "record": (transcript("a"),),
    "find": (Ref("transcript", "a"),),
    "note": (Ref("transcript", "a"), "completed", "{}"),
    "forget": (Ref("transcript", "a"),),
    "place": (Ref("transcript", "a"), None),
    "page": (Page("transcript", 10),),
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_failing_verb_refuses(verb, asynchronous, caplog):
    async def run():
        verbs, calls = failing(9, asynchronous=asynchronous)
        with pytest.raises(StoreUnavailable) as caught:
            await getattr(resource_store(verbs), verb)(*ARGUMENTS[verb])
        assert isinstance(caught.value.__cause__, OSError)
        assert len(calls) == (2 if verb in ("record", "note", "forget") else 1)

    asyncio.run(run())
    assert len(ours(caplog)) == 1
    assert f"resources: {verb} failed" in ours(caplog)[0]


@pytest.mark.parametrize("verb", ["record", "note", "forget"])
def test_what_is_written_is_tried_twice(verb, caplog):
    async def run():
        verbs, calls = failing(1, asynchronous=True)
        await getattr(resource_store(verbs), verb)(*ARGUMENTS[verb])
        assert calls == [verb, verb]

    asyncio.run(run())
    assert not ours(caplog)


def test_a_refusal_of_the_users_reaches_the_caller():
    def refuse(*args):
        raise Forbidden("Not on Sundays.")

    async def run():
        store = resource_store(ResourceCallbacks(**dict.fromkeys(VERBS, refuse)))
        for verb in VERBS:
            with pytest.raises(Forbidden, match="Sundays"):
                await getattr(store, verb)(*ARGUMENTS[verb])

    asyncio.run(run())


WRONG_ANSWERS = [
    ("find", "team-a"),
    ("find", transcript("b")),
    ("place", 5.0),
    ("place", ("a", 5.0)),
    ("place", (5.0, "a", "b")),
    ("page", None),
    ("page", {"a"}),
    ("page", [transcript(str(number)) for number in range(11)]),
    ("page", ["a"]),
    ("page", [Resource(Ref("upload", "a"), "team-a", "p", 1.0)]),
]


@pytest.mark.parametrize(("verb", "answer"), WRONG_ANSWERS)
def test_a_wrong_answer_is_refused(verb, answer, caplog):
    async def run():
        verbs = {"record": print, "find": print, verb: lambda *args: answer}
        with pytest.raises(StoreUnavailable):
            await getattr(resource_store(ResourceCallbacks(**verbs)), verb)(*ARGUMENTS[verb])

    asyncio.run(run())
    assert len(ours(caplog)) == 1
    assert f"resources: {verb} failed" in ours(caplog)[0]


def test_i3_a_page_with_anothers_resource_is_refused():
    async def run():
        verbs = ResourceCallbacks(record=print, find=print, page=lambda page: [transcript("a", "team-b")])
        assert ids(await resource_store(verbs).page(Page("transcript", 10))) == "a"
        with pytest.raises(StoreUnavailable):
            await resource_store(verbs).page(Page("transcript", 10, team="team-a"))

    asyncio.run(run())


def test_places_may_come_from_json():
    async def run():
        store = resource_store(ResourceCallbacks(record=print, find=print, place=lambda ref, team: [5, "a"]))
        assert await store.place(Ref("transcript", "a"), None) == (5.0, "a")

    asyncio.run(run())


@pytest.mark.parametrize("verb", ["record", "forget"])
def test_a_write_happens_although_its_caller_is_cancelled(verb):
    async def run():
        memory = MemoryResources()
        if verb == "forget":
            await memory.record(transcript("a"))
        store = resource_store(Slow(memory))
        task = asyncio.create_task(getattr(store, verb)(*ARGUMENTS[verb]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (await memory.find(Ref("transcript", "a")) is None) == (verb == "forget")

    asyncio.run(run())
