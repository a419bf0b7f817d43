"""A caller who leaves, at any message and during any wait, leaves nothing behind (invariants I5, I7, I8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.rig import CONCURRENCY, TOKEN, Caller, Rig, keys_of, rig, scope_of, simulated, until
from faults.scenarios import KEYS, SCENARIOS, UPLOAD
from harness import run, secret

from keypool_asgi import Team
from keypool_asgi.testing import Fault, Simulator

MOST = 100


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated(*KEYS, stream_interval=0.001).running() as simulator:
        for name in KEYS[:3]:
            simulator.revoke_key(secret(name))
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Iterator[Simulator]:
    shared.heal()
    shared.forget()
    yield shared
    for request in shared.requests:
        if request.path == "/v2/upload" and request.complete:
            assert request.body_size == len(UPLOAD), "a part of an upload became a whole one"
    assert shared.violations == []


async def leave_everywhere(simulator: Simulator, name: str, where: str) -> None:
    for number in range(1, MOST):
        simulator.heal()
        made = await SCENARIOS[name](simulator)
        caller = Caller(made.pieces, **{where: number})
        await asyncio.wait_for(caller.call(made.rig.app, made.scope), 5)
        await made.rig.nothing_left()
        await made.rig.app.aclose()
        left_in_time = caller.asked >= number if where == "leaves_at_receive" else len(caller.sent) >= number
        if not left_in_time:
            assert (caller.status, caller.complete) == (made.status, True)
            return
    pytest.fail(f"still busy after {MOST} messages")


@pytest.mark.parametrize("where", ["leaves_at_receive", "leaves_at_send"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_leaving_at_every_message(simulator: Simulator, name: str, where: str) -> None:
    run(leave_everywhere(simulator, name, where))


# Leaving during a wait: what is waited for never comes


async def leave_during(
    simulator: Simulator, pool: Rig, scope: dict[str, Any], caller: Caller, waits: Callable[[], object]
) -> None:
    """Have the caller leave once ``waits()`` is true, and see that the exchange ends at once."""
    exchange = asyncio.create_task(caller.call(pool.app, scope))
    await until(waits)
    await asyncio.sleep(0.01)
    assert not exchange.done(), caller.sent
    caller.leave()
    await asyncio.wait_for(exchange, 2)
    await pool.nothing_left()
    await pool.app.aclose()
    assert not caller.complete


@pytest.mark.parametrize("body", [len(UPLOAD), -1], ids=["length", "chunked"])
def test_leaving_during_the_upload(simulator: Simulator, body: int) -> None:
    class Stuck(Caller):
        async def receive(self) -> dict[str, Any]:
            if len(self._left) == 1:
                await self._gone.wait()
                return {"type": "http.disconnect"}
            return await super().receive()

    async def main() -> None:
        caller = Stuck([UPLOAD[:1000], UPLOAD[1000:2000], UPLOAD[2000:]])
        pool = rig(simulator, "good")
        await leave_during(
            simulator,
            pool,
            scope_of("POST", "/v2/upload", body=body),
            caller,
            lambda: any(request.body_size == 2000 for request in simulator.requests),
        )

    run(main())
    assert [request.complete for request in simulator.requests] == [False]
    assert [request.outcome for request in simulator.requests] == ["abandoned"]


@pytest.mark.parametrize(
    ("place", "after"), [("request head", 0), ("request body", 10), ("response head", 0), ("response body", 10)]
)
def test_leaving_while_upstream_is_stuck(simulator: Simulator, place: Any, after: int) -> None:
    simulator.fail(Fault.stalled(place, after=after))

    async def main() -> None:
        caller = Caller([UPLOAD])
        scope = scope_of("POST", "/v2/upload", body=len(UPLOAD))
        await leave_during(simulator, rig(simulator, "good"), scope, caller, lambda: simulator.open_requests)

    run(main())


def test_leaving_while_the_answer_streams(simulator: Simulator) -> None:
    simulator.fail(Fault.large_body(64 * 1024 * 1024))

    async def main() -> None:
        class Slow(Caller):
            async def send(self, message: dict[str, Any]) -> None:
                await super().send(message)
                if len(self.sent) > 3:
                    await self._gone.wait()

        caller = Slow()
        await leave_during(
            simulator, rig(simulator, "good"), scope_of("GET", "/v1/voices"), caller, lambda: len(caller.sent) > 3
        )

    run(main())


def test_leaving_while_the_team_is_looked_up(simulator: Simulator) -> None:
    """Nobody reads the caller yet: it is noticed right after the answer of the operator's function."""

    async def main() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def teams(presented: str) -> Team:
            asked.set()
            await answer.wait()
            return Team("team-a", limits=[CONCURRENCY])

        pool = rig(simulator, "good", teams=teams)
        caller = Caller([UPLOAD])
        exchange = asyncio.create_task(caller.call(pool.app, scope_of("POST", "/v2/upload", body=len(UPLOAD))))
        await asked.wait()
        caller.leave()
        answer.set()
        await asyncio.wait_for(exchange, 2)
        await pool.nothing_left()
        await pool.app.aclose()

    run(main())
    assert not any(request.complete for request in simulator.requests)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_leaving_while_waiting_for_a_key(simulator: Simulator, method: str) -> None:
    """The key comes and goes back; the request of a caller who is gone never becomes complete upstream."""
    simulator.fail(Fault.stalled("response head"), path="/v1/voices", times=1)

    async def main() -> None:
        pool = rig(simulator, keys=keys_of("good", max_in_flight=1), key_wait_seconds=5)
        first, second = Caller(), Caller([UPLOAD])
        holding = asyncio.create_task(first.call(pool.app, scope_of("GET", "/v1/voices")))
        await until(lambda: simulator.open_requests)
        scope = scope_of("GET", "/v1/models") if method == "GET" else scope_of("POST", "/v2/upload", body=len(UPLOAD))
        waiting = asyncio.create_task(second.call(pool.app, scope))
        await asyncio.sleep(0.01)
        second.leave()
        simulator.release()
        await asyncio.wait_for(asyncio.gather(holding, waiting), 3)
        assert first.status == 200
        assert second.sent == []
        await pool.nothing_left()
        await pool.app.aclose()

    run(main())
    assert not any(request.complete for request in simulator.requests if request.path != "/v1/voices")


def test_a_server_whose_send_raises_for_a_caller_who_is_gone(simulator: Simulator) -> None:
    """ASGI 2.4: ``send()`` raises an OSError then."""

    async def main() -> None:
        class Raising(Caller):
            async def send(self, message: dict[str, Any]) -> None:
                raise ConnectionResetError("gone")

        pool = rig(simulator, "good")
        await Raising().call(pool.app, scope_of("GET", "/v1/voices"))
        await pool.nothing_left()
        await pool.app.aclose()

    run(main())


def test_the_token_stays_secret_in_what_is_recorded(simulator: Simulator) -> None:
    async def main() -> Rig:
        pool = rig(simulator, "good")
        await Caller(leaves_at_receive=1).call(pool.app, scope_of("POST", "/v2/upload", body=len(UPLOAD)))
        await pool.app.aclose()
        return pool

    (record,) = run(main()).records
    assert (record.team, record.status, record.complete) == ("team-a", None, False)
    assert TOKEN not in repr(record)
