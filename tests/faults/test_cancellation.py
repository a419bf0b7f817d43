"""An exchange that is cancelled at any of its awaits leaves nothing behind (invariants I5, I7)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.rig import Caller, cancelled_at, simulated
from faults.scenarios import KEYS, SCENARIOS, UPLOAD
from harness import run, secret

from keypool_asgi.testing import Simulator

MOST = 150


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with simulated(*KEYS, stream_interval=0.001).running() as simulator:
        for name in KEYS[:3]:
            simulator.revoke_key(secret(name))
        yield simulator


async def cancel_everywhere(simulator: Simulator, name: str, *, again: bool) -> None:
    for number in range(1, MOST):
        simulator.heal()
        made = await SCENARIOS[name](simulator)
        caller = Caller(made.pieces)
        suspensions = await cancelled_at(caller.call(made.rig.app, made.scope), number, again=again)
        await made.rig.nothing_left()
        await made.rig.app.aclose()
        if suspensions is not None:
            assert (caller.status, caller.complete) == (made.status, True)
            assert number > 1, "nothing was ever cancelled"
            return
    pytest.fail(f"still suspended after {MOST} cancellations")


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_cancelled_at_every_await(simulator: Simulator, name: str, again: bool) -> None:
    simulator.forget()
    run(cancel_everywhere(simulator, name, again=again))
    for request in simulator.requests:
        if request.path == "/v2/upload" and request.complete:
            assert request.body_size == len(UPLOAD), "a part of an upload became a whole one"
    assert simulator.violations == []
