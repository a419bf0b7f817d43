"""A caller who leaves, at any message and at any moment, leaves nothing behind, here or upstream (I5, I8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.rig import CONCURRENCY, TOKEN, Rig, keys_of, simulated, until
from faults.session_rig import (
    AUDIO,
    TERMINATE,
    SessionCaller,
    ended_well,
    retrieved,
    session_rig,
    socket_scope,
)
from faults.session_scenarios import KEYS, SESSIONS, revoke
from harness import run

from keypool_asgi import Team
from keypool_asgi.testing import Fault, Simulator, SocketFault

MOST = 100
MOMENTS = 120  # turns of the loop: more than a session takes to begin


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated(*KEYS).running() as simulator:
        revoke(simulator)
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Iterator[Simulator]:
    shared.heal()
    shared.forget()
    yield shared
    assert shared.violations == []


async def leave_everywhere(simulator: Simulator, name: str, where: str, *, raises: bool) -> None:
    for number in range(1, MOST):
        simulator.heal()
        simulator.forget()
        made = SESSIONS[name](simulator)
        caller = made.caller(raises=raises, **{where: number})
        await asyncio.wait_for(caller.call(made.rig.app, made.scope), 5)
        await ended_well(made.rig)
        assert caller.in_order(), caller.sent
        if not caller.gone:
            assert made.is_over(caller), caller.sent
            return
    pytest.fail(f"still busy after {MOST} messages")


@pytest.mark.parametrize("raises", [False, True], ids=["is silent", "raises"])
@pytest.mark.parametrize("where", ["leaves_at_receive", "leaves_at_send"])
@pytest.mark.parametrize("name", SESSIONS)
def test_leaving_at_every_message_of_a_session(simulator: Simulator, name: str, where: str, raises: bool) -> None:
    """On servers whose ``send`` takes everything then, and on those where it raises an OSError (ASGI 2.4)."""
    run(retrieved(leave_everywhere(simulator, name, where, raises=raises)))


# Any moment: what is awaited inside the relay's own tasks is met too


async def go_at_any_moment(simulator: Simulator, name: str, go: Callable[[SessionCaller, Any], object]) -> None:
    for moment in range(MOMENTS):
        simulator.heal()
        simulator.forget()
        made = SESSIONS[name](simulator)
        caller = made.caller()
        task = asyncio.create_task(caller.call(made.rig.app, made.scope))
        for _ in range(moment):
            await asyncio.sleep(0)
        go(caller, task)
        await asyncio.wait([task], timeout=5)
        assert task.done()
        if not task.cancelled():
            task.result()
        await ended_well(made.rig)
        assert caller.in_order(), caller.sent


@pytest.mark.parametrize("name", ["from begin to termination", "a walk over dead keys", "a caller who speaks first"])
def test_leaving_at_any_moment_of_the_opening(simulator: Simulator, name: str) -> None:
    run(retrieved(go_at_any_moment(simulator, name, lambda caller, _: caller.leave())))


@pytest.mark.parametrize("name", ["from begin to termination", "a walk over dead keys", "a caller who speaks first"])
def test_cancelled_at_any_moment_of_the_opening(simulator: Simulator, name: str) -> None:
    run(retrieved(go_at_any_moment(simulator, name, lambda _, task: task.cancel())))


# Leaving during a wait: what is waited for never comes


async def leave_during(pool: Rig, caller: SessionCaller, waits: Callable[[], object], **scope: Any) -> None:
    """Have the caller leave once ``waits()`` is true, and see that the exchange ends."""
    exchange = asyncio.create_task(caller.call(pool.app, socket_scope(**scope)))
    await until(waits)
    await asyncio.sleep(0.01)
    assert not exchange.done(), caller.sent
    caller.leave()
    await asyncio.wait_for(exchange, 3)
    await ended_well(pool)


@pytest.mark.parametrize("place", ["request head", "response head"])
def test_leaving_while_upstream_does_not_answer_the_upgrade(simulator: Simulator, place: Any) -> None:
    simulator.fail(Fault.stalled(place))
    run(leave_during(session_rig(simulator, "good"), SessionCaller(), lambda: simulator.open_requests))


def test_leaving_while_upstream_does_not_begin(simulator: Simulator) -> None:
    simulator.fail(SocketFault.silent())
    run(leave_during(session_rig(simulator, "good"), SessionCaller(), lambda: simulator.open_sessions))
    assert [session.state for session in simulator.sessions] == ["terminated"]


def test_leaving_in_the_midst_of_a_session(simulator: Simulator) -> None:
    caller = SessionCaller([AUDIO])
    run(leave_during(session_rig(simulator, "good"), caller, lambda: len(caller.messages) == 1))
    assert [session.state for session in simulator.sessions] == ["terminated"]


@pytest.mark.parametrize("what", ["reading", "sending", "both"])
def test_leaving_while_upstream_is_stuck(simulator: Simulator, what: Any) -> None:
    """What cannot be told it any more is cut off, after ``closing_seconds``; upstream ends that by itself."""
    simulator.fail(SocketFault.stalled(what=what, after=1))

    async def main() -> None:
        caller = SessionCaller([AUDIO])
        pool = session_rig(simulator, "good")
        exchange = asyncio.create_task(caller.call(pool.app))
        await until(lambda: any(session.received for session in simulator.sessions))
        await asyncio.sleep(0.01)
        caller.leave()
        await asyncio.wait_for(exchange, 3)
        await until(lambda: not pool.app.open_exchanges)
        assert [key.in_flight for key in pool.keys] == [0]
        simulator.release()
        await pool.nothing_left()
        await pool.app.aclose()

    run(main())


def test_leaving_while_upstream_pours_and_nobody_reads(simulator: Simulator) -> None:
    simulator.fail(SocketFault.says(*["x" * 60_000] * 500))

    async def main() -> None:
        class Slow(SessionCaller):
            async def send(self, message: dict[str, Any]) -> None:
                await super().send(message)
                if len(self.sent) > 3:
                    await self.left.wait()

        caller = Slow()
        await leave_during(session_rig(simulator, "good"), caller, lambda: len(caller.sent) > 3)

    run(main())
    assert [session.state for session in simulator.sessions] == ["terminated"]


def test_leaving_while_the_team_is_looked_up(simulator: Simulator) -> None:
    """Nobody reads the caller yet; it is noticed when the session is to be opened."""

    async def main() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def teams(presented: str) -> Team:
            asked.set()
            await answer.wait()
            return Team("team-a", limits=[CONCURRENCY])

        pool = session_rig(simulator, "good", teams=teams)
        caller = SessionCaller()
        exchange = asyncio.create_task(caller.call(pool.app))
        await asked.wait()
        caller.leave()
        answer.set()
        await asyncio.wait_for(exchange, 3)
        await ended_well(pool)
        assert caller.sent == []

    run(main())


def test_leaving_while_waiting_for_a_key(simulator: Simulator) -> None:
    async def main() -> None:
        pool = session_rig(simulator, keys=keys_of("good", max_in_flight=1), key_wait_seconds=5)
        first, second = SessionCaller(), SessionCaller()
        holding = asyncio.create_task(first.call(pool.app))
        await until(lambda: first.accepted)
        waiting = asyncio.create_task(second.call(pool.app))
        await asyncio.sleep(0.02)
        second.leave()
        first.say(TERMINATE)
        await asyncio.wait_for(asyncio.gather(holding, waiting), 3)
        assert second.sent == []
        assert first.closed == (1000, "")
        await ended_well(pool)

    run(main())


def test_the_token_stays_secret_in_what_is_recorded_of_a_session(simulator: Simulator) -> None:
    async def main() -> Rig:
        pool = session_rig(simulator, "good")
        await SessionCaller(leaves_at_send=2).call(pool.app)
        await ended_well(pool)
        return pool

    (record,) = run(main()).records
    assert (record.team, record.status, record.close_code, record.complete) == ("team-a", 101, 1006, False)
    assert TOKEN not in repr(record)
