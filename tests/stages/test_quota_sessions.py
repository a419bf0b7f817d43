"""The quota stage and sessions: windows that are admitted ahead of time, an end in time, and an honest settlement."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from harness import run
from stages.quota_rig import QuotaRig

from keypool_asgi.core.limits import Limit
from keypool_asgi.core.prices import Price, Prices
from keypool_asgi.core.sessions import SessionMeter
from keypool_asgi.errors import StoreUnavailable
from keypool_asgi.exchange import SCOPE_KEY
from keypool_asgi.stages.quota_account import Parts
from keypool_asgi.stages.quota_session import OUT_OF_QUOTA

SECONDS = Limit("stream_seconds", 100, per="day")
STREAMS = Limit("streams", 2)


class Relay:
    """Plays a session whose time the test moves: it began so many seconds ago."""

    def __init__(self, *, figures=None):
        self.meter = SessionMeter()
        self.figures = figures or {}
        self.begun, self.over, self.stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.closes = []

    async def __call__(self, scope, receive, send):
        exchange = scope[SCOPE_KEY]
        exchange.reached_upstream = True
        exchange.on_stop = self.stop
        exchange.session = self.meter
        self.meter.opened = asyncio.get_running_loop().time()
        self.begun.set()
        await self.over.wait()
        self.meter.figures = self.figures
        self.meter.closed = asyncio.get_running_loop().time()

    def stop(self, close):
        self.closes.append(close)
        self.stopped.set()

    def age(self, seconds):
        self.meter.opened = asyncio.get_running_loop().time() - seconds


@contextlib.asynccontextmanager
async def session(rig, relay, operation="streaming.session"):
    """A session that is going on."""
    rig.stage.app = relay
    going = asyncio.create_task(rig.connect(operation))
    await relay.begun.wait()
    yield going
    relay.over.set()
    await going


async def visited(rig):
    """Let the stage look at its sessions once."""
    rig.stage._sessions._visit(list(rig.stage._sessions._items))
    await asyncio.sleep(0.02)


def test_the_first_window_is_held_before_anything_is_opened():
    async def scenario():
        rig, relay = QuotaRig(SECONDS, STREAMS), Relay()
        async with session(rig, relay):
            assert (rig.left(SECONDS), rig.left(STREAMS)) == (70, 1)
            assert rig.permits == {"r1"}
        assert rig.left(STREAMS) == 2
        assert not rig.permits

    run(scenario())


@pytest.mark.parametrize(
    ("age", "left"),
    [(0, 70), (14, 70), (18, 40), (28, 40), (29, 70)],
    ids=["begun", "not yet", "in time", "late", "too late to ask"],
)
def test_the_next_window_is_admitted_before_the_last_one_ends(age, left):
    async def scenario():
        rig, relay = QuotaRig(SECONDS), Relay()
        async with session(rig, relay):
            relay.age(age)
            await visited(rig)
            assert rig.left(SECONDS) == left
            assert bool(relay.closes) == (age == 29)

    run(scenario())


def test_a_short_limit_that_is_first_looked_at_late_is_named():
    async def scenario():
        rig, relay = QuotaRig(Limit("stream_seconds", 4, per="month")), Relay()
        async with session(rig, relay):
            relay.age(1.5)
            await visited(rig)
            assert not relay.closes
            await visited(rig)
            assert [close.code for close in relay.closes] == [OUT_OF_QUOTA]

    run(scenario())


def test_a_session_goes_on_while_there_is_quota_and_ends_in_time():
    """What was admitted is never exceeded, what is left is used to within a few seconds, and it is charged once."""

    async def scenario():
        rig, relay = QuotaRig(SECONDS), Relay(figures={"session_duration_seconds": 94})
        async with session(rig, relay):
            age = 0.0
            while not relay.closes:
                relay.age(age)
                await visited(rig)
                assert len(rig.permits) <= 3
                assert set(rig.stage._renewing._items) == rig.permits  # none that was denied
                age += 1
                assert age < 100
            assert 90 <= age <= 97
            assert relay.closes[0].code == OUT_OF_QUOTA
            assert relay.closes[0].reason.startswith("Limit of 100 streaming seconds per day is used up")
            assert len(relay.closes[0].reason.encode()) <= 123
        assert rig.left(SECONDS) == 6
        assert not rig.permits

    run(scenario())


@pytest.mark.parametrize(("age", "figures", "used"), [
    (12.2, {}, 13),
    (12.2, {"session_duration_seconds": 12.0}, 12),
    (12.2, {"session_duration_seconds": 45}, 45),
    (0.0, {"audio_duration_seconds": 9}, 1),
])  # fmt: skip
def test_settled_by_upstreams_figure_else_by_our_clock(age, figures, used):
    async def scenario():
        rig, relay = QuotaRig(SECONDS), Relay(figures=figures)
        async with session(rig, relay):
            relay.age(age)
        assert rig.left(SECONDS) == 100 - used

    run(scenario())


def test_a_session_that_never_opened_is_free():
    async def scenario():
        async def refused(scope, receive, send):
            scope[SCOPE_KEY].reached_upstream = True

        rig = QuotaRig(SECONDS, STREAMS, Limit("requests", 5, per="day"), app=refused)
        await rig.connect("streaming.session")
        assert (rig.left(SECONDS), rig.left(STREAMS), rig.left(Limit("requests", 5, per="day"))) == (100, 2, 5)

    run(scenario())


def test_too_many_sessions_are_refused_before_upstream_is_asked():
    async def scenario():
        rig, relays, sent = QuotaRig(STREAMS), [Relay(), Relay()], []
        async with session(rig, relays[0]), session(rig, relays[1]):
            rig.stage.app = None  # nobody may be asked

            async def send(message):
                sent.append(message)

            await rig.connect("streaming.session", send=send)
        assert sent[0]["status"] == 429
        assert b"2 live sessions" in sent[1]["body"]

    run(scenario())


def test_a_limit_that_is_smaller_than_a_window():
    async def scenario():
        limit = Limit("stream_seconds", 10, per="minute")
        rig, relay = QuotaRig(limit), Relay()
        async with session(rig, relay):
            assert rig.left(limit) == 0
            relay.age(7.5)
            await visited(rig)  # there is still time to ask
            await visited(rig)
            assert [close.code for close in relay.closes] == [OUT_OF_QUOTA]

    run(scenario())


def test_cancelled_in_the_middle():
    """Whatever ends it, nothing stays held, and its time is charged."""

    async def scenario():
        rig, relay = QuotaRig(SECONDS, STREAMS), Relay()
        rig.stage.app = relay
        going = asyncio.create_task(rig.connect("streaming.session"))
        await relay.begun.wait()
        relay.age(18.5)
        await visited(rig)
        assert len(rig.permits) == 2
        relay.age(33.5)
        going.cancel()
        await asyncio.wait([going])
        await asyncio.sleep(0.02)
        assert not rig.permits
        assert (rig.left(SECONDS), rig.left(STREAMS)) == (66, 2)

    run(scenario())


def test_a_store_that_fails_in_the_middle_ends_the_session_in_time():
    """It may be back before that."""

    async def scenario():
        rig, relay = QuotaRig(SECONDS), Relay()
        failing = []
        reserve = rig.store.reserve

        async def sometimes(permit_id, charges):
            if failing:
                raise StoreUnavailable("gone")
            return await reserve(permit_id, charges)

        rig.store.reserve = sometimes
        async with session(rig, relay):
            failing.append(True)
            for age in (18, 20, 22):
                relay.age(age)
                await visited(rig)
            assert not relay.closes
            failing.clear()
            await visited(rig)
            assert rig.left(SECONDS) == 40
            failing.append(True)
            for age in (50, 57.5):
                relay.age(age)
                await visited(rig)
            assert [close.code for close in relay.closes] == [1013]

    run(scenario())


def test_what_a_session_costs():
    async def scenario():
        budget = Limit("cost", 10_000, per="month")
        prices = Prices({"streaming.session": {"stream_seconds": Price(125), "requests": Price(10)}})
        rig, relay = QuotaRig(budget, SECONDS, prices=prices), Relay(figures={"session_duration_seconds": 40})
        async with session(rig, relay):
            assert rig.left(budget) == 10_000 - 30 * 125
            relay.age(18)
            await visited(rig)
            assert rig.left(budget) == 10_000 - 60 * 125
        assert rig.left(budget) == 10_000 - 40 * 125 - 10
        assert rig.left(SECONDS) == 60

    run(scenario())


def test_a_budget_of_money_alone_ends_a_session():
    async def scenario():
        budget = Limit("cost", 50, per="month")
        prices = Prices({"streaming.session": {"stream_seconds": Price(1)}})
        rig, relay = QuotaRig(budget, prices=prices), Relay()
        async with session(rig, relay):
            for age in (18, 33, 43):
                relay.age(age)
                await visited(rig)
            assert relay.closes[0].code == OUT_OF_QUOTA

    run(scenario())


def test_speech_is_charged_by_its_characters():
    async def scenario():
        limit = Limit("tts_characters", 500, per="day")
        rig, relay = QuotaRig(limit, SECONDS), Relay(figures={"total_input_char_length": 77})
        async with session(rig, relay, "speech.session"):
            pass
        assert (rig.left(limit), rig.left(SECONDS)) == (423, 100)

    run(scenario())


def test_sessions_are_visited_by_one_timer():
    """With real time: a window of two seconds is followed by the next, and by a stop when there is none."""

    async def scenario():
        limit = Limit("stream_seconds", 4, per="day")
        rig, relay = QuotaRig(limit, window_seconds=2, stop_seconds=0.5), Relay()
        async with session(rig, relay):
            async with asyncio.timeout(20):
                await relay.stopped.wait()
            assert relay.closes[0].code == OUT_OF_QUOTA
            assert rig.left(limit) == 0
        assert rig.left(limit) <= 1

    run(scenario())


# Parts


def test_what_was_used_is_shared_out_among_the_parts():
    parts = Parts("stream_seconds", 30)
    parts.add(30)
    parts.add(20)
    assert parts.shares(0) == [(1, 0), (2, 0), (3, 0)]
    assert parts.shares(45) == [(1, 30), (2, 15), (3, 0)]
    assert parts.shares(95) == [(1, 30), (2, 30), (3, 35)]
    assert parts.passed() == [2]
    assert parts.shares(45) == [(1, 15), (3, 0)]
    assert parts.shares(95) == [(1, 30), (3, 35)]
    assert parts.admitted == 80
