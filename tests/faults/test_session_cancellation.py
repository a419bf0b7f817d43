"""A session that is cancelled at any of its awaits leaves nothing behind, here or upstream (invariants I5, I8)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.rig import cancelled_at, simulated
from faults.session_rig import ended_well, retrieved
from faults.session_scenarios import KEYS, SESSIONS, revoke
from harness import run

from keypool_asgi.testing import Simulator

MOST = 150


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated(*KEYS).running() as simulator:
        revoke(simulator)
        yield simulator


async def cancel_everywhere(simulator: Simulator, name: str, *, again: bool) -> None:
    for number in range(1, MOST):
        simulator.heal()
        simulator.forget()
        made = SESSIONS[name](simulator)
        caller = made.caller()
        suspensions = await cancelled_at(caller.call(made.rig.app, made.scope), number, again=again)
        await ended_well(made.rig)
        assert caller.in_order(), caller.sent
        if suspensions is not None:
            assert made.is_over(caller), caller.sent
            assert number > 1, "nothing was ever cancelled"
            return
    pytest.fail(f"still suspended after {MOST} cancellations")


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("name", SESSIONS)
def test_cancelled_at_every_await_of_a_session(simulator: Simulator, name: str, again: bool) -> None:
    run(retrieved(cancel_everywhere(simulator, name, again=again)))
    assert simulator.violations == []
