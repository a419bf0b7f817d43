"""Every fault of upstream at every stage of an exchange: the right row of the error table, or an honest break (I7).

Whatever happens: nothing is left behind (I5), nothing is done twice (I6), no key suffers for what is not its fault.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from faults.rig import Caller, Rig, rig, scope_of, simulated
from harness import run, secret

import keypool_asgi.assembly
from keypool_asgi import Timeouts
from keypool_asgi.core.health import State
from keypool_asgi.core.operations import OperationTable
from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.testing import MALFORMED, Fault, Simulator

QUICK = Timeouts(connect=0.5, write=0.3, read=0.2, idle=5)
UPLOAD = [b"x" * 100_000] * 3
SIZE = 300_000
CHAT = json.dumps({"model": "claude-sonnet-5", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
JSON = (b"content-type", b"application/json")

BROKEN = ("broken",)
"""The answer began, and was cut: never ended as if it were complete."""

FAILED = (502, "UPSTREAM_FAILED")


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated("k1", "k2", stream_interval=0.001).running() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Simulator:
    shared.heal()
    shared.forget()
    return shared


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation waits 0.2 s for its answer."""
    table = OperationTable([replace(operation, patience=0.2) for operation in ASSEMBLYAI.table.operations])
    monkeypatch.setattr(keypool_asgi.assembly, "ASSEMBLYAI", replace(ASSEMBLYAI, table=table))


OPERATIONS: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    "read": (scope_of("GET", "/v1/voices"), []),
    "upload": (scope_of("POST", "/v2/upload", body=SIZE), UPLOAD),
    "chunked": (scope_of("POST", "/v2/upload", body=-1), UPLOAD),
    "chat": (scope_of("POST", "/v1/chat/completions", JSON, body=len(CHAT)), [CHAT.encode()]),
}


async def play(simulator: Simulator, what: str, *keys: str, **settings: Any) -> tuple[Caller, Rig]:
    scope, pieces = OPERATIONS[what]
    pool = rig(simulator, *(keys or ("k1",)), timeouts=QUICK, **settings)
    caller = await asyncio.wait_for(Caller(list(pieces)).call(pool.app, dict(scope)), 10)
    await pool.nothing_left()
    await pool.app.aclose()
    return caller, pool


def outcome(caller: Caller) -> tuple[Any, ...]:
    """Status and code of what the caller got; no code for an answer of upstream's."""
    if not caller.complete:
        return BROKEN
    if caller.status in (502, 503) and set(caller.json) == {"error", "code", "request_id"}:
        return caller.status, caller.json["code"]
    return (caller.status,)


# Before the head of the answer

BEFORE_THE_HEAD = {
    "reset at the head": Fault.reset("request head"),
    "closed at the head": Fault.fin("request head"),
    "reset in the upload": Fault.reset("request body", after=1),
    "closed in the upload": Fault.fin("request body", after=1),
    "reset instead of an answer": Fault.reset("response head"),
    "closed instead of an answer": Fault.fin("response head"),
}
MALFORMED_HEADS = sorted(
    set(MALFORMED) - {"bad chunk size", "truncated chunked", "truncated length", "body too long", "second response"}
)
ALL_BEFORE_THE_HEAD = BEFORE_THE_HEAD | {f"malformed: {kind}": Fault.malformed(kind) for kind in MALFORMED_HEADS}


@pytest.mark.parametrize("what", OPERATIONS)
@pytest.mark.parametrize("fault", ALL_BEFORE_THE_HEAD)
def test_a_fault_before_the_head_is_a_502(simulator: Simulator, fault: str, what: str) -> None:
    if what == "read" and "upload" in fault:
        what = "chat"  # nothing is uploaded with a read
    rule = simulator.fail(ALL_BEFORE_THE_HEAD[fault])
    caller, pool = run(play(simulator, what, "k1", "k2"))
    assert outcome(caller) == FAILED
    assert rule.matches == 1, "sent twice, although upstream may have acted on it"
    assert pool.records[0].refused == "UPSTREAM_FAILED"
    states = [health.state for key in pool.keys for health in key.health.values()]
    assert set(states) == {State.ACTIVE}, "no key is at fault"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", OPERATIONS)
def test_an_answer_that_never_comes_is_a_502(simulator: Simulator, what: str) -> None:
    rule = simulator.fail(Fault.stalled("response head"))
    caller, _ = run(play(simulator, what, "k1", "k2"))
    assert outcome(caller) == FAILED
    assert "in time" in caller.json["error"]
    assert rule.matches == 1


@pytest.mark.parametrize("what", ["upload", "chunked"])
def test_an_upload_that_upstream_stops_reading_is_a_502(simulator: Simulator, what: str) -> None:
    simulator.fail(Fault.stalled("request body", after=1))
    scope, _ = OPERATIONS[what]
    size = 12 * 1024 * 1024
    if what == "upload":
        scope = scope_of("POST", "/v2/upload", body=size)

    async def main() -> Caller:
        pool = rig(simulator, timeouts=QUICK)
        caller = await asyncio.wait_for(Caller([bytes(1024 * 1024)] * 12).call(pool.app, scope), 10)
        simulator.release()  # while it reads nothing, it does not see that the connection is cut
        await pool.nothing_left()
        await pool.app.aclose()
        return caller

    assert outcome(run(main())) == FAILED
    assert not any(request.complete for request in simulator.requests)


def test_no_connection_is_tried_again_as_often_as_configured(simulator: Simulator) -> None:
    nowhere = dict.fromkeys(simulator.origins, "http://127.0.0.1:1")
    for retries in (0, 2):
        caller, pool = run(play(simulator, "upload", origins=nowhere, retries=retries))
        assert outcome(caller) == FAILED
        assert "could not be reached" in caller.json["error"]
        assert len(pool.records[0].keys) == 1 + retries


# Within the answer

CUTS = {
    "reset": Fault.reset("response body", after=10),
    "closed": Fault.fin("response body", after=10),
    "stalled": Fault.stalled("response body", after=10),
    "reset, chunked": Fault.reset("response body", after=10).but(framing="chunked"),
    "closed, chunked": Fault.fin("response body", after=10).but(framing="chunked"),
    "reset, until close": Fault.reset("response body", after=10).but(framing="close"),
    "malformed: bad chunk size": Fault.malformed("bad chunk size"),
    "malformed: truncated chunked": Fault.malformed("truncated chunked"),
    "malformed: truncated length": Fault.malformed("truncated length"),
}


@pytest.mark.parametrize("what", ["read", "chat"])
@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_that_breaks_off_is_broken_off(simulator: Simulator, cut: str, what: str) -> None:
    rule = simulator.fail(CUTS[cut])
    caller, pool = run(play(simulator, what, "k1", "k2"))
    assert caller.status == 200
    assert outcome(caller) == BROKEN
    assert rule.matches == 1
    (record,) = pool.records
    assert (record.status, record.complete, record.refused) == (200, False, None)


@pytest.mark.parametrize("what", ["upload", "chunked"])
@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_that_breaks_off_while_it_is_held_is_a_502(simulator: Simulator, cut: str, what: str) -> None:
    """What an answer creates is recorded before the caller sees it, so nothing of it has reached the caller."""
    rule = simulator.fail(CUTS[cut])
    caller, pool = run(play(simulator, what, "k1", "k2"))
    assert outcome(caller) == FAILED
    assert rule.matches == 1
    assert pool.records[0].refused == "UPSTREAM_FAILED"


@pytest.mark.parametrize("kind", ["body too long", "second response"])
def test_what_follows_a_complete_answer_is_thrown_away(simulator: Simulator, kind: Any) -> None:
    simulator.fail(Fault.malformed(kind), times=1)

    async def main() -> list[Caller]:
        pool = rig(simulator, timeouts=QUICK)
        scope, _ = OPERATIONS["read"]
        callers = [await Caller().call(pool.app, dict(scope)) for _ in range(2)]
        await pool.nothing_left()
        await pool.app.aclose()
        return callers

    first, second = run(main())
    assert (first.status, first.body, first.complete) == (200, b"{}", True)
    assert "voices" in second.json
    assert len({request.connection for request in simulator.requests}) == 2


# An answer that blames the key, and breaks off

BLAMES = {
    "401": (Fault.status(401), "NO_AVAILABLE_KEYS"),
    "402": (Fault.status(402), "NO_AVAILABLE_KEYS"),
    "429": (Fault.status(429, headers=[(b"Retry-After", b"7")]), "NO_AVAILABLE_KEYS"),
}


@pytest.mark.parametrize("cut", ["reset", "fin", "stalled"])
@pytest.mark.parametrize("blame", BLAMES)
def test_a_broken_answer_that_blames_the_key_moves_on(simulator: Simulator, blame: str, cut: str) -> None:
    fault = BLAMES[blame][0]
    places = {"reset": Fault.reset, "fin": Fault.fin, "stalled": Fault.stalled}
    broken = places[cut]("response body", after=3)
    simulator.fail(fault.but(breaks=broken.breaks, stall=broken.stall), key=secret("k1"))
    for what in ("read", "chat"):
        caller, pool = run(play(simulator, what, "k1", "k2"))
        assert outcome(caller) == (200,), pool.records
    caller, pool = run(play(simulator, "read", "k1"))
    assert outcome(caller) == (503, BLAMES[blame][1])
    retry_after = int(dict(caller.headers)[b"retry-after"])
    if blame == "401":
        # What it said is not known to the end, so the key is not taken out of service; the caller may come back.
        assert retry_after >= 1
    else:
        assert retry_after == {"402": 300, "429": 7}[blame]


@pytest.mark.parametrize("status", [400, 403])
def test_a_broken_answer_that_may_be_the_requests_fault_is_a_502(simulator: Simulator, status: int) -> None:
    fault = Fault.status(status, {"error": "Cannot access uploaded file, and so on"})
    rule = simulator.fail(fault.but(breaks=Fault.reset("response body", after=3).breaks))
    caller, _ = run(play(simulator, "read", "k1"))
    assert outcome(caller) in (FAILED, (503, "NO_AVAILABLE_KEYS"))
    assert rule.matches == 1


# Answers that pass

PASSING = [400, 404, 405, 409, 410, 413, 415, 422, 500, 502, 503, 504]


@pytest.mark.parametrize("status", PASSING)
def test_upstreams_own_errors_pass_unchanged_and_once(simulator: Simulator, status: int) -> None:
    rule = simulator.fail(Fault.status(status, {"error": "no"}, headers=[(b"X-One", b"1"), (b"X-One", b"2")]))
    for number, what in enumerate(OPERATIONS, 1):
        caller, pool = run(play(simulator, what, "k1", "k2"))
        assert (caller.status, caller.json, caller.complete) == (status, {"error": "no"}, True)
        assert [value for name, value in caller.headers if name == b"x-one"] == [b"1", b"2"]
        assert rule.matches == number
        assert pool.records[0].refused is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_passed_on_and_not_followed(simulator: Simulator, status: int) -> None:
    rule = simulator.fail(Fault.redirect(simulator.url + "/elsewhere", status))
    caller, _ = run(play(simulator, "read"))
    assert caller.status == status
    assert rule.matches == 1
    assert [request.path for request in simulator.requests] == ["/v1/voices"]


@pytest.mark.parametrize("then", ["keep", "close", "hang up", "reset"])
@pytest.mark.parametrize("what", ["upload", "chunked"])
def test_an_early_error_arrives_and_ends_the_upload(simulator: Simulator, what: str, then: Any) -> None:
    simulator.fail(Fault.early(413, {"error": "too large"}, after=1000, then=then))
    caller, _ = run(play(simulator, what))
    assert (caller.status, caller.json, caller.complete) == (413, {"error": "too large"}, True)
    assert not any(request.complete and request.body_size < SIZE for request in simulator.requests)


def test_trickled_answers_and_slow_readers_are_no_faults(simulator: Simulator) -> None:
    simulator.fail(Fault.trickled(20, 0.001), service="agents")
    simulator.fail(Fault.slow_read(2_000_000), service="api")
    for what in OPERATIONS:
        caller, _ = run(play(simulator, what))
        assert outcome(caller) == (200,)


def test_connections_that_end_at_once(simulator: Simulator) -> None:
    for how in ("reset", "fin"):
        simulator.drop_connections(1, how)  # type: ignore[arg-type]
        caller, _ = run(play(simulator, "upload"))
        # Had nothing been written yet when it ended, the request may go out on another connection.
        assert (outcome(caller), len(simulator.requests)) in ((FAILED, 0), ((200,), 1))
        simulator.forget()


def test_an_idle_connection_that_upstream_closed_costs_nobody_an_error(simulator: Simulator) -> None:
    async def main() -> list[Any]:
        pool = rig(simulator, timeouts=QUICK)
        statuses = []
        for what in ("read", "upload", "chat", "read"):
            scope, pieces = OPERATIONS[what]
            caller = await Caller(list(pieces)).call(pool.app, dict(scope))
            statuses.append(caller.status)
            simulator.close_idle()
            await asyncio.sleep(0.02)
        await pool.nothing_left()
        await pool.app.aclose()
        return statuses

    assert run(main()) == [200] * 4
    assert len(simulator.requests) == 4


def test_an_outage_in_between(simulator: Simulator) -> None:
    async def main() -> list[Any]:
        pool = rig(simulator, timeouts=QUICK)
        seen = []
        scope, _ = OPERATIONS["read"]
        for up in (True, False, True):
            if not up:
                simulator.stop()
            seen.append(outcome(await Caller().call(pool.app, dict(scope))))
            if not up:
                simulator.start()
        await pool.nothing_left()
        await pool.app.aclose()
        return seen

    assert run(main()) == [(200,), FAILED, (200,)]
