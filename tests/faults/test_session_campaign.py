"""Every fault of upstream at every stage of a session: what the caller sees, and what the key is blamed for.

Whatever happens: nothing is left behind (I5), no session runs on upstream (I8), nothing that broke off ends as if it
were complete (I7), and no key suffers for what is not its fault.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from faults.rig import TOKEN, Rig, keys_of, simulated
from faults.session_rig import (
    AUDIO,
    QUICK,
    TERMINATE,
    SessionCaller,
    all_retrieved,
    ended_well,
    session_rig,
    socket_scope,
)
from harness import free_port, run, secret

from keypool_asgi import SessionLimits, Team, UpstreamKey
from keypool_asgi.core.health import State
from keypool_asgi.testing import MALFORMED, Fault, Simulator, SocketFault
from keypool_asgi.testing.simulator.sockets.faults import INVALID_FRAMES

NO_KEYS = (503, "NO_AVAILABLE_KEYS")
FAILED = (502, "UPSTREAM_FAILED")
SERVED = (1000, "")


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated("k1", "k2").running() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Iterator[Simulator]:
    shared.heal()
    shared.forget()
    shared.settings.echo = False
    yield shared
    shared.settings.echo = False


def talks() -> SessionCaller:
    """Says a word, waits for what is heard, and ends the session."""
    return SessionCaller([AUDIO, AUDIO, AUDIO, AUDIO, TERMINATE], after=[1, 1, 1, 1, 2])


def ranked(*names: str) -> list[UpstreamKey]:
    """Keys that are taken in this order."""
    return [key for rank, name in enumerate(names) for key in keys_of(name, priority=rank)]


async def play(
    simulator: Simulator, *names: str, caller: SessionCaller | None = None, cut_off: bool = False, **settings: Any
) -> tuple[SessionCaller, Rig]:
    pool = session_rig(simulator, **({"keys": ranked(*names or ("k1",))} | settings))
    with all_retrieved():
        caller = await asyncio.wait_for((caller or talks()).call(pool.app), 10)
        assert caller.in_order(), caller.sent
        await ended_well(pool, upstream=not cut_off)
    return caller, pool


def outcome(caller: SessionCaller) -> tuple[int, str] | None:
    """The refusal, or the close."""
    return caller.refused or caller.closed


def states(pool: Rig) -> dict[str, State]:
    """How the keys stand at streaming; those that were never asked for are as good as new."""
    return {key.id: key.health["streaming"].state for key in pool.keys if "streaming" in key.health}


# Before Begin: refusals of the key, in band

BLAMES = {
    "bad key": (SocketFault.refused(), State.REJECTED),
    "missing key": (SocketFault.refused(text="Unauthorized Connection: Missing Authorization header"), State.REJECTED),
    "no funds": (SocketFault.refused(text="Unauthorized Connection: Insufficient account balance"), State.EXHAUSTED),
    "too many": (SocketFault.refused(3009, "Unauthorized Connection: Too many concurrent sessions"), State.COOLING),
    "too many, 1008": (SocketFault.refused(text="Unauthorized Connection: Too many sessions"), State.COOLING),
    "close alone": (
        SocketFault.closed(1008, "Unauthorized Connection: Invalid API key", before_begin=True),
        State.REJECTED,
    ),
    "close alone, 3009": (SocketFault.closed(3009, "Too many concurrent sessions", before_begin=True), State.COOLING),
}


@pytest.mark.parametrize("name", BLAMES)
def test_a_key_that_is_refused_in_band_makes_way_unseen(simulator: Simulator, name: str) -> None:
    fault, state = BLAMES[name]
    simulator.fail(fault, key=secret("k1"))
    caller, pool = run(play(simulator, "k1", "k2"))
    assert (outcome(caller), caller.kinds[0]) == (SERVED, "Begin")
    assert states(pool)["k1"] is state
    assert states(pool)["k2"] in (State.ACTIVE, State.RAMP)
    assert [record.keys for record in pool.records] == [("k1", "k2")]


@pytest.mark.parametrize("name", BLAMES)
def test_the_only_key_that_is_refused_in_band(simulator: Simulator, name: str) -> None:
    fault, state = BLAMES[name]
    simulator.fail(fault)
    caller, pool = run(play(simulator))
    assert outcome(caller) == NO_KEYS
    assert states(pool) == {"k1": state}
    assert pool.records[0].refused == "NO_AVAILABLE_KEYS"
    fields = dict(caller.sent[0]["headers"])
    assert int(fields[b"retry-after"]) >= 1


@pytest.mark.parametrize(
    ("words", "state"), [("This key has seen its day", State.REJECTED), ("keyterms_prompt is not today", State.ACTIVE)]
)
def test_a_refusal_of_unknown_wording_is_believed_if_it_is_of_the_key_and_another_one_then_serves(
    simulator: Simulator, words: str, state: State
) -> None:
    simulator.fail(SocketFault.refused(text=words), key=secret("k1"))
    caller, pool = run(play(simulator, "k1", "k2"))
    assert outcome(caller) == SERVED
    assert states(pool)["k1"] is state


def test_a_refusal_of_unknown_wording_that_every_key_gets_is_the_callers_to_read(simulator: Simulator) -> None:
    simulator.fail(SocketFault.refused(text="Not today"))
    caller, pool = run(play(simulator, "k1", "k2"))
    assert outcome(caller) == (403, "FORBIDDEN"), "every key is told so: it may be what was asked for"
    assert b"Not today" in caller.sent[1]["body"]
    assert set(states(pool).values()) == {State.ACTIVE}


def test_what_the_caller_asked_for_is_refused_to_the_caller(simulator: Simulator) -> None:
    """Once, without another key; and the key is none the worse for it."""
    rule = simulator.fail(SocketFault.refused(3006, "Invalid parameter: sample_rate"))
    caller, pool = run(play(simulator, "k1", "k2"))
    assert outcome(caller) == (3006, "Invalid parameter: sample_rate")
    assert [json.loads(text)["error_code"] for text in caller.messages] == [3006]
    assert rule.matches == 1
    assert states(pool)["k1"] is State.ACTIVE


# Before Begin: failures that are nobody's key's

BAD_UPGRADES = ("wrong accept", "unasked subprotocol", "unasked extension")
"""Of upgrades that are none, it is not known whether there is a session to be ended."""

FAILURES = {
    "error 1011": SocketFault.refused(1011, "Internal error"),
    "error 3005": SocketFault.refused(3005, "Session Cancelled: An error occurred"),
    "close 1011": SocketFault.closed(1011, before_begin=True),
    "close 1012": SocketFault.closed(1012, before_begin=True),
    "close 1013": SocketFault.closed(1013, before_begin=True),
    "reset": SocketFault.dropped("reset", before_begin=True),
    "fin": SocketFault.dropped("fin", before_begin=True),
    "silent": SocketFault.silent(),
    "stalled": SocketFault.stalled(what="sending", before_begin=True),
    "wrong accept": SocketFault.fields((b"Sec-WebSocket-Accept", b"bm90IHRoZSByaWdodCBvbmU=")),
    "unasked subprotocol": SocketFault.fields((b"Sec-WebSocket-Protocol", b"surprise")),
    "unasked extension": SocketFault.fields((b"Sec-WebSocket-Extensions", b"permessage-deflate")),
    "status 500": Fault.status(500, {"error": "oops"}),
    "status 502": Fault.status(502, "<html>"),
    "status 503": Fault.status(503, {"error": "maintenance"}),
    "no upgrade": Fault.status(200, {"hello": "world"}),
    "redirect": Fault.redirect("http://127.0.0.1:9/elsewhere"),
    "upgrade stalled": Fault.stalled("response head"),
    "upgrade reset": Fault.reset("response head"),
    "upgrade fin": Fault.fin("response head"),
    "garbage": Fault.malformed("garbage"),
    "huge head": Fault.malformed("huge head"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_before_begin_that_passes(simulator: Simulator, name: str) -> None:
    """The budget for retries is spent on it, unseen by the caller."""
    simulator.fail(FAILURES[name], times=1)
    caller, pool = run(play(simulator, cut_off=name in BAD_UPGRADES))
    assert outcome(caller) == SERVED
    assert states(pool) == {"k1": State.ACTIVE}


@pytest.mark.parametrize("names", [("k1",), ("k1", "k2")], ids=["one key", "two keys"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_before_begin_that_stays(simulator: Simulator, name: str, names: tuple[str, ...]) -> None:
    """Every key would meet it: the walk through the pool is not for it."""
    rule = simulator.fail(FAILURES[name])
    caller, pool = run(play(simulator, *names, cut_off=name in BAD_UPGRADES))
    assert outcome(caller) == FAILED
    assert rule.matches == 2
    assert set(states(pool).values()) == {State.ACTIVE}
    assert pool.records[0].refused == "UPSTREAM_FAILED"


@pytest.mark.parametrize("kind", sorted(MALFORMED))
def test_an_answer_to_the_upgrade_that_is_no_http(simulator: Simulator, kind: Any) -> None:
    simulator.fail(Fault.malformed(kind))
    caller, pool = run(play(simulator))
    assert outcome(caller) == FAILED
    assert states(pool) == {"k1": State.ACTIVE}


@pytest.mark.parametrize("kind", ["utf-8", "reserved bit", "length of 2**63", "close code 1005", "garbage"])
def test_invalid_frames_before_begin(simulator: Simulator, kind: Any) -> None:
    """What comes together with the 101 too: upstream is told to end what it has begun."""
    simulator.fail(SocketFault.invalid(kind).but(before_begin=True))
    caller, pool = run(play(simulator))
    assert outcome(caller) == FAILED
    assert states(pool) == {"k1": State.ACTIVE}


STATUSES = {401: State.REJECTED, 402: State.EXHAUSTED, 429: State.COOLING}


@pytest.mark.parametrize("status", STATUSES)
def test_a_key_that_is_refused_with_a_status_makes_way_unseen(simulator: Simulator, status: int) -> None:
    body = {"error": {401: "Authentication error, API token missing/invalid"}.get(status, "no")}
    simulator.fail(Fault.status(status, body), key=secret("k1"))
    caller, pool = run(play(simulator, "k1", "k2"))
    assert outcome(caller) == SERVED
    assert states(pool)["k1"] is STATUSES[status]
    simulator.fail(Fault.status(status, body))
    caller, _ = run(play(simulator))
    assert outcome(caller) == NO_KEYS


def test_a_late_begin_is_in_time(simulator: Simulator) -> None:
    simulator.fail(SocketFault.late(QUICK.attempt_seconds / 4))
    caller, _ = run(play(simulator))
    assert outcome(caller) == SERVED


def test_the_time_for_the_opening_is_for_all_keys(simulator: Simulator) -> None:
    simulator.fail(SocketFault.silent())
    limits = SessionLimits(opening_seconds=0.3, attempt_seconds=5, closing_seconds=0.3)

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        caller, _ = await play(simulator, sessions=limits)
        assert outcome(caller) == FAILED
        return asyncio.get_running_loop().time() - began

    assert run(main()) < 4


def test_what_an_upgrade_sets_stays_upstream(simulator: Simulator) -> None:
    simulator.fail(SocketFault.fields((b"Set-Cookie", b"a=b"), (b"X-Internal", b"1")))
    caller, _ = run(play(simulator))
    assert outcome(caller) == SERVED
    assert caller.sent[0].get("headers", []) == []


# In the middle


@dataclass(frozen=True)
class Middle:
    """A fault after the caller's first message, and what comes of it.

    Attributes:
        fault: what goes wrong.
        close: code of the close that the caller sees.
        messages: what comes before that, after ``Begin``; None: not looked at.
        blamed: whether it says that the key is no good any more.
    """

    fault: SocketFault
    close: int
    messages: list[str | bytes] | None = None
    blamed: bool = False


WARNING = '{"type": "Warning", "warning_code": 1, "warning": "slow"}'
ENDS = SocketFault.closed(4321, "done")
MIDDLES = {
    "error 3005": Middle(SocketFault.errored(), 3005),
    "error 3007": Middle(SocketFault.errored(3007, "Audio Transmission Rate Exceeded"), 3007),
    "error 1008": Middle(SocketFault.errored(1008, "Unauthorized Connection: Invalid API key"), 1013, blamed=True),
    "close 1000": Middle(SocketFault.closed(1000), 1000, []),
    "close 1011": Middle(SocketFault.closed(1011, "oops"), 1011, []),
    "close 4999": Middle(SocketFault.closed(4999, "x" * 123), 4999, []),
    "close without a code": Middle(SocketFault.closed(None), 1000, []),
    "reset": Middle(SocketFault.dropped("reset"), 1011, []),
    "fin": Middle(SocketFault.dropped("fin"), 1011, []),
    "both stalled": Middle(SocketFault.stalled(), 1011, []),
    "sending stalled": Middle(SocketFault.stalled(what="sending"), 1011, []),
    "says": Middle(SocketFault.says(WARNING, b"\0\1", "no JSON", "[]", '"x"').and_then(ENDS), 4321),
    "empty": Middle(SocketFault.empty().and_then(ENDS), 4321, ["", b""]),
    "giant": Middle(SocketFault.giant(), 1009, []),
    "giant binary": Middle(SocketFault.giant(binary=True), 1009, []),
    "fragmented": Middle(SocketFault.fragmented("frag" * 100, 50, pings=3).and_then(ENDS), 4321, ["frag" * 100]),
    "pinged": Middle(SocketFault.pinged(10_000, b"p" * 125).and_then(ENDS), 4321, []),
    **{f"invalid: {kind}": Middle(SocketFault.invalid(kind), 1011, []) for kind in INVALID_FRAMES},
}
DEAF = "both stalled"
"""An upstream that takes nothing cannot be told to end."""

LIVELY = SessionLimits(closing_seconds=0.3, ping_seconds=0.2)


@pytest.mark.parametrize("name", MIDDLES)
def test_a_fault_in_the_middle(simulator: Simulator, name: str) -> None:
    """The caller sees it as it is; nothing is repeated, and no key is blamed but for its credential."""
    middle = MIDDLES[name]
    rule = simulator.fail(middle.fault.but(after=1))

    async def main() -> tuple[SessionCaller, Rig]:
        releasing = asyncio.create_task(_released(simulator))
        try:
            caller = SessionCaller([AUDIO], after=[1])
            return await play(simulator, "k1", "k2", caller=caller, sessions=LIVELY, cut_off=name == DEAF)
        finally:
            releasing.cancel()
            await asyncio.wait([releasing])

    caller, pool = run(main())
    assert caller.closed is not None
    assert caller.closed[0] == middle.close
    assert caller.kinds[0] == "Begin"
    if middle.messages is not None:
        assert caller.messages[1:] == middle.messages
    assert rule.matches == 1
    assert states(pool)["k1"] is (State.REJECTED if middle.blamed else State.ACTIVE)
    assert [(record.keys, record.close_code) for record in pool.records] == [(("k1",), middle.close)]


async def _released(simulator: Simulator) -> None:
    """Let a stalled simulator see, later than anybody waits for it, that the connection has gone."""
    await asyncio.sleep(1.5)
    simulator.release()


# After Terminate: an echo does not end by itself, so that the fault decides how it ends

TERMINATION = {"type": "Termination", "audio_duration_seconds": 1, "session_duration_seconds": 2}
FIGURES = SocketFault.says(TERMINATION)
ENDINGS = {
    "close 1011 without figures": (SocketFault.closed(1011), {1011}, False),
    "drop without figures": (SocketFault.dropped(), {1011}, False),
    "error without figures": (SocketFault.errored(3005), {3005}, False),
    "figures and a close": (FIGURES.and_then(SocketFault.closed(1000)), {1000}, True),
    "figures and another close": (FIGURES.and_then(SocketFault.closed(4000, "x")), {4000}, True),
    "figures and a drop": (FIGURES.and_then(SocketFault.dropped()), {1000, 1011}, True),
    "figures and no close": (FIGURES, {1000}, True),
    "figures and more": (FIGURES.and_then(SocketFault.says("more").and_then(SocketFault.closed(1000))), {1000}, True),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_fault_after_terminate(simulator: Simulator, name: str) -> None:
    fault, codes, has_figures = ENDINGS[name]
    simulator.settings.echo = True
    simulator.fail(fault.but(after=2))

    async def main() -> tuple[SessionCaller, Rig]:
        pool = session_rig(simulator, "k1")
        caller = SessionCaller([AUDIO, TERMINATE], after=[1, 2])
        with all_retrieved():
            await asyncio.wait_for(caller.call(pool.app), 5)
            await pool.nothing_left()
        await pool.app.aclose()
        return caller, pool

    caller, pool = run(main())
    assert caller.in_order()
    assert caller.closed is not None
    assert caller.closed[0] in codes
    assert ("Termination" in caller.kinds) == has_figures
    assert states(pool) == {"k1": State.ACTIVE}
    assert [text for kind, text in simulator.sessions[-1].messages if kind == "text"] == [TERMINATE], "said once"


# Hosts that are dead


def dead_port() -> int:
    return free_port()


def black_hole() -> socket.socket:
    """A host that takes no connection: its queue is full."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(0)
    return sock


def regions(simulator: Simulator, dead: str) -> dict[str, Any]:
    """Origins with a region that is dead, and keys of both, the dead one's first."""
    keys = [
        UpstreamKey("eu-1", secret=secret("eu-1"), project="project-eu", account="account-eu", region="eu", priority=0),
        *keys_of("k1", priority=1),
    ]
    return {"keys": keys, "origins": {"streaming": {"us": simulator.origins["streaming"], "eu": f"{dead}/streaming"}}}


@pytest.mark.parametrize("how", ["refused", "black hole"])
def test_another_region_serves_when_a_host_is_dead(simulator: Simulator, how: str) -> None:
    with black_hole() as hole, socket.socket() as filler:
        if how == "black hole":
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
            second = socket.socket()
            second.setblocking(False)
            second.connect_ex(hole.getsockname())
            dead = f"http://127.0.0.1:{hole.getsockname()[1]}"
        else:
            dead = f"http://127.0.0.1:{dead_port()}"
        caller, pool = run(play(simulator, **regions(simulator, dead)))
        if how == "black hole":
            second.close()
    assert outcome(caller) == SERVED
    assert pool.records[0].keys == ("eu-1", "k1")
    assert set(states(pool).values()) == {State.ACTIVE}


def test_a_team_that_is_bound_to_a_region_stays_in_it(simulator: Simulator) -> None:
    given = regions(simulator, f"http://127.0.0.1:{dead_port()}")
    caller, pool = run(play(simulator, **given, teams={TOKEN: Team("team-a", regions=["eu"])}))
    assert outcome(caller) == FAILED
    assert {key for record in pool.records for key in record.keys} == {"eu-1"}
    assert simulator.requests == []


def test_every_host_is_dead(simulator: Simulator) -> None:
    dead = f"http://127.0.0.1:{dead_port()}"
    origins = {service: f"{dead}/{service}" for service in simulator.origins}
    caller, pool = run(play(simulator, origins=origins))
    assert outcome(caller) == FAILED
    assert states(pool) == {"k1": State.ACTIVE}


def test_an_outage_between_sessions(simulator: Simulator) -> None:
    async def main() -> list[Any]:
        pool = session_rig(simulator, "k1")
        seen = []
        for up in (True, False, True):
            if not up:
                simulator.stop()
            seen.append(outcome(await talks().call(pool.app, socket_scope())))
            if not up:
                simulator.start()
        await ended_well(pool)
        return seen

    assert run(main()) == [SERVED, FAILED, SERVED]
