"""Two processes and one set of quotas, one of which may crash: a state machine against a model that cannot be wrong.

The model keeps every permit in a dict, and a budget as a sum. It is run against one store in memory, and against two
that share a SQLite file.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.core.reservations import standing
from keypool_asgi.stores.quotas import MemoryQuotas
from keypool_asgi.stores.sqlite_quotas import SqliteQuotas

TTL = 60
START = 1_900_000_000.0  # in the middle of a month

names = st.integers(0, 7)
processes = st.integers(0, 1)


class Quotas(RuleBasedStateMachine):
    """Whatever is done, by whom, and whoever crashes: held is what is open, used is what was settled, once."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = START
        self.open = {}  # permit id -> [expiry, concurrency, tokens, process]
        self.spent = 0
        self.lives = [0, 0]  # how often each process has begun

    @initialize(streams=st.integers(1, 6), tokens=st.integers(1, 200))
    def start(self, streams, tokens):
        self.streams = Limit("streams", streams)
        self.tokens = Limit("llm_tokens", tokens, per="month")
        self.stores = self.make_stores()

    def make_stores(self):
        store = MemoryQuotas(clock=lambda: self.now, permit_ttl_seconds=TTL)
        return [store, store]

    def teardown(self):
        self.runner.close()

    def do(self, work):
        return self.runner.run(work)

    def prune(self):
        """What has expired counts as it was reserved."""
        for key in [key for key, permit in self.open.items() if permit[0] <= self.now]:
            self.spent += self.open.pop(key)[2]

    @property
    def held(self):
        return sum(permit[1] for permit in self.open.values()), sum(permit[2] for permit in self.open.values())

    def permit(self, process, name):
        """A process's own permits; after a crash it makes new ones."""
        return f"{process}-{self.lives[process]}-{name}"

    @rule(seconds=st.sampled_from([0.001, 1, 20, 59.999, 60, 61, 5000]))
    def wait(self, seconds):
        self.now = round(self.now + seconds, 3)

    @rule(process=processes, name=names, streams=st.integers(0, 3), tokens=st.integers(0, 80))
    def reserve(self, process, name, streams, tokens):
        self.prune()
        permit = self.permit(process, name)
        charges = [Charge("team:a", self.streams, streams), Charge("team:a", self.tokens, tokens)]
        denial = self.do(self.stores[process].reserve(permit, charges))
        if permit in self.open:
            assert denial is None
            return
        held = self.held
        fits = held[0] + streams <= self.streams.amount and self.spent + held[1] + tokens <= self.tokens.amount
        assert (denial is None) == fits
        if fits:
            self.open[permit] = [self.now + TTL, streams, tokens]

    @rule(process=processes, name=names)
    def renew(self, process, name):
        self.prune()
        permit = self.permit(process, name)
        assert self.do(self.stores[process].renew(permit)) == (permit in self.open)
        if permit in self.open:
            self.open[permit][0] = self.now + TTL

    @rule(process=processes, name=names, used=st.none() | st.integers(0, 300), times=st.integers(1, 3))
    def settle(self, process, name, used, times):
        """By either process, as a job is, and again and again."""
        self.prune()
        permit = self.permit(process, name)
        for number in range(times):
            store = self.stores[(process + number) % 2]
            self.do(store.settle(permit, {} if used is None else {"llm_tokens": used}))
        if permit in self.open:
            reserved = self.open.pop(permit)[2]
            self.spent += reserved if used is None else used

    @rule(process=processes, name=names)
    def release(self, process, name):
        self.prune()
        permit = self.permit(process, name)
        self.do(self.stores[process].release(permit))
        self.open.pop(permit, None)

    @rule(process=processes, name=names, another=names, seconds=st.sampled_from([10, 600]))
    def rename(self, process, name, another, seconds):
        self.prune()
        old, new = self.permit(process, name), self.permit(process, another)
        if old == new:
            return
        done = self.do(self.stores[process].rename(old, new, seconds))
        assert done == (old in self.open and new not in self.open)
        if done:
            self.open[new] = [self.now + seconds, *self.open.pop(old)[1:]]

    @rule(process=processes)
    def crash(self, process):
        """It ends nothing, and does not know its permits any more."""
        self.lives[process] += 1

    @invariant()
    def held_is_open_and_nothing_is_lost(self):
        if not hasattr(self, "stores"):
            return
        self.prune()
        held = self.held
        charges = [Charge("team:a", self.streams), Charge("team:a", self.tokens)]
        for store in set(self.stores):
            levels = self.do(store.levels(charges))
            left = [standing(one.limit, levels.get(one.slot), int(self.now * 1e6))[0] for one in charges]
            assert left == [
                self.streams.amount - held[0],
                max(0, self.tokens.amount - self.spent - held[1]),
            ]


class SharedQuotas(Quotas):
    """The same with two stores on one file."""

    def make_stores(self):
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "quotas.db"
        return [SqliteQuotas(path, clock=lambda: self.now, permit_ttl_seconds=TTL) for _ in range(2)]

    @rule(process=processes)
    def restart(self, process):
        """Its connection is gone, and another one is made."""
        self.do(self.stores[process].aclose())
        self.lives[process] += 1

    def teardown(self):
        for store in getattr(self, "stores", ()):
            self.do(store.aclose())
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


TestQuotas = Quotas.TestCase
TestQuotas.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSharedQuotas = SharedQuotas.TestCase
TestSharedQuotas.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
