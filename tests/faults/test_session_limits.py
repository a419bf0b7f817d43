"""What a session may take: the limits of time and size, a quota that is used up, and callers who take nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from faults.rig import Rig, simulated, until
from faults.session_rig import AUDIO, TERMINATE, SessionCaller, all_retrieved, ended_well, session_rig
from harness import run

from keypool_asgi.core.sessions import Close, SessionLimits
from keypool_asgi.exchange import exchange_of
from keypool_asgi.testing import Simulator, SocketFault

QUICK = {"closing_seconds": 0.3}


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Iterator[Simulator]:
    shared.heal()
    shared.forget()
    yield shared
    assert shared.violations == []


async def ends(simulator: Simulator, caller: SessionCaller, speaks: Any = None, **limits: Any) -> Rig:
    """Play a session whose end is to come by itself, while ``speaks`` (async) has the caller say something."""
    pool = session_rig(simulator, sessions=SessionLimits(**(QUICK | limits)))
    with all_retrieved():
        playing = asyncio.create_task(caller.call(pool.app))
        if speaks is not None:
            await until(lambda: caller.accepted)
            await speaks(playing)
        await asyncio.wait_for(playing, 5)
        assert caller.in_order(), caller.sent
        await ended_well(pool)
    return pool


def test_a_caller_who_says_nothing(simulator: Simulator) -> None:
    caller = SessionCaller()
    pool = run(ends(simulator, caller, idle_seconds=0.1))
    assert caller.kinds == ["Begin", "Termination"]
    assert caller.closed is not None
    assert caller.closed[0] == 4408
    assert caller.closed[1]
    assert [(record.close_code, record.complete) for record in pool.records] == [(4408, True)]
    assert [session.state for session in simulator.sessions] == ["terminated"]


def test_whoever_speaks_now_and_then_is_not_idle(simulator: Simulator) -> None:
    caller = SessionCaller()

    async def speaks(_: Any) -> None:
        for _ in range(8):
            await asyncio.sleep(0.1)
            caller.say(AUDIO)
        caller.say(TERMINATE)

    run(ends(simulator, caller, speaks, idle_seconds=0.4))
    assert caller.closed == (1000, "")


def test_what_upstream_says_does_not_keep_an_idle_caller_alive(simulator: Simulator) -> None:
    simulator.fail(SocketFault.says(*['{"type": "Warning"}'] * 20))
    caller = SessionCaller()
    run(ends(simulator, caller, idle_seconds=0.1))
    assert caller.closed is not None
    assert caller.closed[0] == 4408


def test_a_session_that_has_lasted_long_enough(simulator: Simulator) -> None:
    caller = SessionCaller()

    async def speaks(playing: Any) -> None:
        while not playing.done():
            caller.say(AUDIO)
            await asyncio.sleep(0.02)

    run(ends(simulator, caller, speaks, session_seconds=0.4, idle_seconds=0.3))
    assert caller.closed is not None
    assert caller.closed[0] == 3008
    assert caller.kinds[-1] == "Termination"


@pytest.mark.parametrize(
    ("message", "fits"),
    [
        (bytes(4000), True),
        (bytes(4001), False),
        ('{"type": "KeepAlive"}' + " " * 3979, True),
        ('{"type": "KeepAlive"}' + " " * 3980, False),
        ('{"type": "KeepAlive", "x": "' + "é" * 1985 + '"}', True),
        ('{"type": "KeepAlive", "x": "' + "é" * 1986 + '"}', False),
    ],
    ids=["binary", "binary, too long", "text", "text, too long", "two bytes each", "two bytes each, too long"],
)
def test_the_longest_message(simulator: Simulator, message: str | bytes, fits: bool) -> None:
    caller = SessionCaller([message, TERMINATE], after=[1])
    run(ends(simulator, caller, message_bytes=4000))
    assert caller.closed is not None
    assert caller.closed[0] == (1000 if fits else 1009)
    assert caller.kinds[-1] == "Termination"
    (session,) = simulator.sessions
    assert (message in [data for _, data in session.messages]) == fits
    assert session.state == "terminated"


def test_a_text_of_half_a_pair_is_no_crash(simulator: Simulator) -> None:
    """A server that lets one pass: it cannot be said in UTF-8, so the session ends."""
    caller = SessionCaller(["\ud800" * 2000], after=[1])

    async def main() -> None:
        pool = session_rig(simulator, sessions=SessionLimits(**QUICK, message_bytes=4000))
        await asyncio.wait_for(caller.call(pool.app), 5)
        await ended_well(pool)

    run(main())
    assert caller.closed is not None


# Whoever asks for the end through the exchange: a quota that has run out


def test_a_stop_that_is_asked_for(simulator: Simulator) -> None:
    """What upstream still has to say is passed on, then the code of whoever has asked."""

    async def main() -> SessionCaller:
        caller = SessionCaller([AUDIO], after=[1])
        pool = session_rig(simulator)
        exchanges: list[Any] = []
        behind = pool.app._parts.gate.app

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            exchanges.append(exchange_of(scope))
            await behind(scope, receive, send)

        pool.app._parts.gate.app = noting
        playing = asyncio.create_task(caller.call(pool.app))
        await until(lambda: simulator.sessions and simulator.sessions[0].received)
        for code in (4429, 4000):
            exchanges[0].stop(Close(code, "The quota has run out."))
        await asyncio.wait_for(playing, 5)
        await ended_well(pool)
        return caller

    caller = run(main())
    assert caller.closed == (4429, "The quota has run out."), "the first word stands"
    assert caller.kinds[-1] == "Termination"


# Callers who take nothing


class Deaf(SessionCaller):
    """A caller whose receive window is full after its first message: a server's ``send`` does not come back.

    Attributes:
        deaf_to: the kind of message at which that begins.
    """

    deaf_to: str = "websocket.send"
    deaf: bool = False

    async def send(self, message: dict[str, Any]) -> None:
        self.deaf = self.deaf or (bool(self.messages) and message["type"] == self.deaf_to)
        if self.deaf:
            await asyncio.Event().wait()
        await super().send(message)


@pytest.mark.parametrize("to", ["websocket.send", "websocket.close"])
@pytest.mark.parametrize("limit", ["idle_seconds", "session_seconds"])
def test_a_caller_who_takes_nothing_is_left_behind(simulator: Simulator, limit: str, to: str) -> None:
    """Neither its lease nor its permit nor the session upstream waits for it."""
    if to == "websocket.send":
        simulator.fail(SocketFault.says(*["x" * 60_000] * 100))

    async def main() -> Deaf:
        caller = Deaf()
        caller.deaf_to = to
        pool = session_rig(simulator, sessions=SessionLimits(closing_seconds=0.2, **{limit: 0.1}))
        await asyncio.wait_for(caller.call(pool.app), 5)
        await ended_well(pool)
        return caller

    assert run(main()).closed is None
    assert [session.state for session in simulator.sessions] == ["terminated"]


@pytest.mark.parametrize("to", ["websocket.send", "websocket.close"])
def test_a_drain_does_not_wait_for_a_caller_who_takes_nothing(simulator: Simulator, to: str) -> None:
    if to == "websocket.send":
        simulator.fail(SocketFault.says(*["x" * 60_000] * 100))

    async def main() -> None:
        caller = Deaf()
        caller.deaf_to = to
        pool = session_rig(simulator, sessions=SessionLimits(closing_seconds=0.2))
        playing = asyncio.create_task(caller.call(pool.app))
        await until(lambda: caller.accepted)
        await asyncio.sleep(0.02)
        await asyncio.wait_for(pool.app.drain(5), 3)
        assert pool.app.open_exchanges == 0
        await asyncio.wait_for(playing, 1)
        await ended_well(pool)

    run(main())


def test_an_upstream_that_has_ended_does_not_wait_for_a_caller_who_takes_nothing(simulator: Simulator) -> None:
    simulator.fail(SocketFault.closed(1000))

    async def main() -> None:
        caller = Deaf()
        caller.deaf_to = "websocket.close"
        pool = session_rig(simulator, sessions=SessionLimits(closing_seconds=0.2))
        await asyncio.wait_for(caller.call(pool.app), 5)
        await ended_well(pool)

    run(main())


# Upstream that takes its time with the end


def test_figures_that_do_not_come_are_not_waited_for(simulator: Simulator) -> None:
    """An echo sends none."""
    simulator.settings.echo = True
    try:
        caller = SessionCaller()

        async def main() -> None:
            pool = session_rig(simulator, sessions=SessionLimits(idle_seconds=0.1, closing_seconds=0.2))
            await asyncio.wait_for(caller.call(pool.app), 3)
            await pool.nothing_left()
            await pool.app.aclose()

        run(main())
    finally:
        simulator.settings.echo = False
    assert caller.closed is not None
    assert caller.closed[0] == 4408
    (session,) = simulator.sessions
    assert [json.loads(data)["type"] for _, data in session.messages] == ["Terminate"]
    assert session.client_close == (1000, "")
