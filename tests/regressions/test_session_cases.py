"""Cases 11, 13, 14, 19 and 20 as far as they concern WebSocket sessions, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from faults.rig import CONCURRENCY, PREFIX, keys_of, simulated
from faults.rig import until as awaited
from faults.session_rig import SessionCaller, session_rig
from harness import run, secret
from matrix.session_server import Process, served_apart
from matrix.session_tools import (
    AUDIO,
    TERMINATE,
    RawSession,
    close_of,
    dial,
    frame,
    kinds_until_close,
    read_json,
    refusal_in_band,
    refusal_status,
)
from regressions.served import Pool, pooled, until

from keypool_asgi import SessionLimits, Team
from keypool_asgi.testing import Fault, Simulator, SocketFault

SERVERS = ("uvicorn-httptools", "hypercorn", "granian")
MIB = 1024 * 1024
QUICK = SessionLimits(opening_seconds=2, attempt_seconds=0.4, closing_seconds=0.3)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator
        assert simulator.violations == []


def base_of(pool: Pool) -> str:
    return pool.served.ws_url + PREFIX


def all_ended(pool: Pool, *states: str) -> None:
    """Fail unless nothing is left here, and every session upstream has come to the given end."""
    pool.nothing_left()
    until(lambda: pool.simulator.open_sessions == 0)
    assert [session.state for session in pool.simulator.sessions] == list(states)


# 11

UNTOLD = {"granian"}
"""Servers that do not say that a caller has left before it was accepted: it ends by ``opening_seconds`` then."""

LEAVING = pytest.mark.parametrize("how", ["reset", "fin"])


def upgrading(pool: Pool) -> RawSession:
    """A caller who has asked for the upgrade, and got no answer yet."""
    caller = RawSession.__new__(RawSession)
    with pytest.raises(TimeoutError):
        caller.__init__(pool.served.url, timeout=0.05)  # type: ignore[misc]
    return caller


@LEAVING
def test_case_11_leaving_during_the_look_up_of_the_token(simulator: Simulator, server: str, how: str) -> None:
    asked, answer = threading.Event(), threading.Event()

    def teams(presented: str) -> Team:
        asked.set()
        answer.wait(5)
        return Team("team-a", limits=[CONCURRENCY])

    with pooled(simulator, server, teams=teams) as pool:
        caller = upgrading(pool)
        assert asked.wait(5)
        caller.vanish(how)
        time.sleep(0.02)
        answer.set()
        pool.nothing_left()
        until(lambda: simulator.open_sessions == 0)


@LEAVING
def test_case_11_leaving_during_the_wait_for_a_key(simulator: Simulator, server: str, how: str) -> None:
    with pooled(simulator, server, keys=keys_of("k1", max_in_flight=1), key_wait_seconds=5) as pool:
        with dial(base_of(pool)) as ws:
            read_json(ws)
            second = upgrading(pool)
            until(lambda: pool.app.open_exchanges == 2)
            second.vanish(how)
            time.sleep(0.02)
            ws.send(TERMINATE)
            close_of(ws)
        pool.nothing_left()
        until(lambda: simulator.open_sessions == 0)


@LEAVING
@pytest.mark.parametrize("place", ["request head", "response head"])
def test_case_11_leaving_during_the_handshake(simulator: Simulator, server: str, how: str, place: Any) -> None:
    simulator.fail(Fault.stalled(place))
    with pooled(simulator, server, sessions=QUICK) as pool:
        caller = upgrading(pool)
        simulator.wait_until(lambda simulator: simulator.open_requests == 1)
        caller.vanish(how)
        all_ended(pool)
        (record,) = pool.records
        assert (record.status, record.complete) == ((502, True) if server in UNTOLD else (None, False))


@LEAVING
def test_case_11_leaving_before_begin(simulator: Simulator, server: str, how: str) -> None:
    simulator.fail(SocketFault.silent())
    with pooled(simulator, server, sessions=QUICK) as pool:
        caller = upgrading(pool)
        simulator.wait_until(lambda simulator: simulator.open_sessions)
        caller.vanish(how)
        all_ended(pool, *["terminated"] * (2 if server in UNTOLD else 1))


@LEAVING
def test_case_11_leaving_during_the_session(simulator: Simulator, server: str, how: str) -> None:
    with pooled(simulator, server) as pool:
        caller = RawSession(pool.served.url)
        caller.read_until(b"Begin")
        caller.send(frame(2, AUDIO))
        simulator.wait_until(lambda simulator: simulator.sessions[0].received)
        caller.vanish(how)
        all_ended(pool, "terminated")


@LEAVING
def test_case_11_leaving_during_a_flood(simulator: Simulator, server: str, how: str) -> None:
    simulator.fail(SocketFault.says(*["x" * 60_000] * 2000))
    with pooled(simulator, server) as pool:
        caller = RawSession(pool.served.url)
        caller.read_until(b"x" * 50_000)
        caller.vanish(how)
        all_ended(pool, "terminated")
        assert pool.records[0].response_bytes < 2000 * 60_000


def test_case_11_a_crowd_that_leaves_at_once(simulator: Simulator, server: str) -> None:
    with pooled(simulator, server, limits=()) as pool:
        crowd = [RawSession(pool.served.url) for _ in range(50)]
        for caller in crowd:
            caller.read_until(b"Begin")
        assert pool.keys[0].in_flight == 50
        for number, caller in enumerate(crowd):
            caller.vanish("reset" if number % 2 else "fin")
        all_ended(pool, *["terminated"] * 50)


# 13


def test_case_13_empty_messages(simulator: Simulator, server: str) -> None:
    simulator.settings.echo = True
    with pooled(simulator, server, sessions=QUICK) as pool, dial(base_of(pool)) as ws:
        read_json(ws)
        for message in ("", b"", "after", b"after"):
            ws.send(message)
            assert ws.recv(timeout=5) == message


def test_case_13_a_server_that_names_both_members(simulator: Simulator) -> None:
    """ASGI allows ``{"text": None, "bytes": b""}``, and ``{"bytes": None, "text": ""}``."""

    class Both(SessionCaller):
        async def receive(self) -> dict[str, Any]:
            message = await super().receive()
            return {"text": None, "bytes": None, **message} if message["type"] == "websocket.receive" else message

    simulator.settings.echo = True

    async def main() -> list[str | bytes]:
        pool = session_rig(simulator)
        caller = Both(["", b"", "x", b"x"])
        task = asyncio.create_task(caller.call(pool.app))
        await awaited(lambda: len(caller.messages) == 5)
        caller.leave()
        await task
        await pool.nothing_left()
        await pool.app.aclose()
        return caller.messages[1:]

    assert run(main()) == ["", b"", "x", b"x"]


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_case_13_sixteen_mib(simulator: Simulator, server: str, kind: str) -> None:
    """Over the limit in either direction: 1009. Below it: as it was. Servers have limits of their own, of 16 MiB."""
    message: str | bytes = "x" * (16 * MIB) if kind == "text" else bytes(16 * MIB)
    simulator.fail(SocketFault.says(message), times=1)
    with pooled(simulator, server, sessions=QUICK) as pool:
        with dial(base_of(pool)) as ws:
            assert kinds_until_close(ws)[1][0] == 1009
        with dial(base_of(pool)) as ws:
            read_json(ws)
            ws.send(message)
            assert close_of(ws)[0] == 1009
        pool.nothing_left()
    simulator.settings.echo = True
    large = SessionLimits(closing_seconds=0.3, message_bytes=17 * MIB)
    with pooled(simulator, server, sessions=large) as pool, dial(base_of(pool)) as ws:
        read_json(ws)
        ws.send(message)
        assert ws.recv(timeout=20) == message


def test_case_13_ping_floods(simulator: Simulator, server: str) -> None:
    simulator.fail(SocketFault.pinged(20_000, b"p" * 125), times=1)
    with pooled(simulator, server) as pool:
        with dial(base_of(pool)) as ws:
            read_json(ws)
            ws.send(TERMINATE)
            assert close_of(ws) == (1000, "")
        with RawSession(pool.served.url) as caller:
            caller.read_until(b"Begin")
            for _ in range(20):
                caller.send(frame(9, b"p" * 125) * 100)
            caller.send(frame(1, TERMINATE.encode()))
            caller.read_until(b"Termination")
        all_ended(pool, "terminated", "terminated")


@pytest.mark.parametrize(
    ("reason", "told"),
    [("x" * 123, "x" * 123), ("é" * 61 + "x", "é" * 61 + "x"), ("x" + "é" * 61, "x" + "é" * 61)],
    ids=["123 letters", "61 pairs and a letter", "a letter and 61 pairs"],
)
def test_case_13_long_reasons_of_upstreams(simulator: Simulator, server: str, reason: str, told: str) -> None:
    assert len(reason.encode()) == 123
    simulator.fail(SocketFault.closed(4999, reason))
    with pooled(simulator, server) as pool, dial(base_of(pool)) as ws:
        assert close_of(ws) == (4999, told)


def test_case_13_a_longer_reason_is_cut_between_two_characters(simulator: Simulator, server: str) -> None:
    """Our own word about a refusal that may be the caller's fault quotes upstream."""
    simulator.fail(SocketFault.refused(text="é" * 55))
    with pooled(simulator, server) as pool:
        message, (code, reason) = refusal_in_band(base_of(pool), agent=None)
    assert (message["error_code"], code) == (4001, 4001)
    assert message["error"].endswith("é" * 55)
    assert len(message["error"].encode()) > 123
    assert message["error"].startswith(reason)
    assert 122 <= len(reason.encode()) <= 123


@pytest.mark.parametrize("code", [None, 4999])
def test_case_13_closes_of_callers(simulator: Simulator, server: str, code: int | None) -> None:
    with pooled(simulator, server) as pool:
        with RawSession(pool.served.url) as caller:
            caller.read_until(b"Begin")
            caller.send(frame(8, b"" if code is None else code.to_bytes(2, "big")))
            caller.read_to_end()
        all_ended(pool, "terminated")


# 14

REFUSALS: dict[str, tuple[Any, int, str]] = {
    "401": (
        Fault.status(401, {"error": "Authentication error, API token missing/invalid"}),
        503,
        "NO_AVAILABLE_KEYS",
    ),
    "429": (
        Fault.status(429, {"error": "Too many requests"}, headers=[(b"Retry-After", b"7")]),
        503,
        "NO_AVAILABLE_KEYS",
    ),
    "503": (Fault.status(503, {"error": "maintenance"}), 502, "UPSTREAM_FAILED"),
    "time out": (Fault.stalled("response head"), 502, "UPSTREAM_FAILED"),
    "garbage": (Fault.malformed("garbage"), 502, "UPSTREAM_FAILED"),
    "close before Begin": (SocketFault.closed(1011, before_begin=True), 502, "UPSTREAM_FAILED"),
    "no Begin": (SocketFault.silent(), 502, "UPSTREAM_FAILED"),
    "Error and close": (SocketFault.refused(), 503, "NO_AVAILABLE_KEYS"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_case_14_upstream_refuses(simulator: Simulator, server: str, name: str) -> None:
    """No caller hangs, and each is told, in the form that it can see; with another key it is served."""
    fault, status, code = REFUSALS[name]
    simulator.fail(fault)
    with pooled(simulator, server, sessions=QUICK) as pool:
        told, fields, body = refusal_status(base_of(pool))
        assert (told, body["code"]) == (status, code)
        assert ("retry-after" in fields) == (status == 503)
        message, close = refusal_in_band(base_of(pool), agent=None)
        assert (message["type"], message["code"], close[0]) == ("Error", code, 1013)
        pool.nothing_left()
    assert not any(secret("k1") in str(record) for record in pool.records)


def test_case_14_a_403_may_be_about_what_was_asked_for(simulator: Simulator, server: str) -> None:
    simulator.fail(Fault.status(403, {"error": "Forbidden"}))
    with pooled(simulator, server, sessions=QUICK) as pool:
        status, _, body = refusal_status(base_of(pool))
        assert (status, body["code"]) in ((403, "FORBIDDEN"), (503, "NO_AVAILABLE_KEYS"))
        pool.nothing_left()


@pytest.mark.parametrize("name", ["401", "429", "Error and close"])
def test_case_14_another_key_serves(server: str, name: str) -> None:
    with simulated("k1", "k2").running() as simulator:
        simulator.fail(REFUSALS[name][0], key=secret("k1"))
        keys = [*keys_of("k1", priority=0), *keys_of("k2", priority=1)]
        with pooled(simulator, server, keys=keys) as pool:
            with dial(base_of(pool)) as ws:
                assert read_json(ws)["type"] == "Begin"
                ws.send(TERMINATE)
                assert close_of(ws) == (1000, "")
            pool.nothing_left()
            assert pool.records[0].keys == ("k1", "k2")


# 19


def test_case_19_a_live_session_is_ended_with_its_figures_and_1012(simulator: Simulator, server: str) -> None:
    with pooled(simulator, server) as pool, ThreadPoolExecutor(1) as threads:
        with dial(base_of(pool)) as ws:
            read_json(ws)
            ws.send(AUDIO)
            draining = threads.submit(pool.served.call, pool.app.drain, 5)
            kinds, (code, reason) = kinds_until_close(ws)
            assert (kinds[-1], code, bool(reason)) == ("Termination", 1012, True)
        draining.result(3)
        status, fields, body = refusal_status(base_of(pool))
        assert (status, body["code"], fields["retry-after"]) == (503, "DRAINING", "1")
        message, close = refusal_in_band(base_of(pool), agent=None)
        assert (message["code"], message["error_code"], close[0]) == ("DRAINING", 1013, 1013)
        all_ended(pool, "terminated")
    (session,) = simulator.sessions
    assert session.messages[-1] == ("text", '{"type":"Terminate"}')


def test_case_19_the_deadline_is_respected(simulator: Simulator, server: str) -> None:
    """An upstream that takes no notice of its end is waited for as long as that may take, not as long as it likes."""
    simulator.fail(SocketFault.stalled(after=1))
    limits = SessionLimits(closing_seconds=0.5)
    with pooled(simulator, server, sessions=limits) as pool, dial(base_of(pool)) as ws:
        read_json(ws)
        ws.send(AUDIO)
        simulator.wait_until(lambda simulator: simulator.sessions[0].received)
        began = time.monotonic()
        pool.served.call(pool.app.drain, 0.1)
        assert 0.05 < time.monotonic() - began < 0.45
        assert pool.app.open_exchanges == 1
        assert close_of(ws)[0] == 1012
        simulator.release()
        pool.nothing_left()


def test_case_19_a_session_that_is_being_opened_is_told(simulator: Simulator, server: str) -> None:
    simulator.fail(SocketFault.late(0.3))
    with pooled(simulator, server) as pool, ThreadPoolExecutor(1) as threads:
        refused = threads.submit(refusal_status, base_of(pool))
        simulator.wait_until(lambda simulator: simulator.open_sessions)
        pool.served.call(pool.app.drain, 5)
        status, _, body = refused.result(5)
        assert (status, body["code"]) == (503, "DRAINING")
        all_ended(pool, "terminated")


def test_case_19_many_sessions_at_once(simulator: Simulator, server: str) -> None:
    with pooled(simulator, server, limits=()) as pool, contextlib.ExitStack() as stack:
        callers = [stack.enter_context(dial(base_of(pool))) for _ in range(30)]
        for ws in callers:
            read_json(ws)
        began = time.monotonic()
        pool.served.call(pool.app.drain, 8)
        assert time.monotonic() - began < 6
        assert {kinds_until_close(ws)[1][0] for ws in callers} == {1012}
        all_ended(pool, *["terminated"] * 30)


# 20, in a process of the server's own


def sessions_of(process: Process, count: int) -> None:
    for _ in range(count):
        with RawSession(process.url) as caller:
            caller.read_until(b"Begin")
            caller.send(frame(1, TERMINATE.encode()))
            caller.read_until(b"Termination")


TWO = pytest.mark.parametrize("server", ["uvicorn-websockets-sansio", "granian-uvloop"])


@TWO
def test_case_20_many_sessions_leave_no_memory_behind(tmp_path: Path, simulator: Simulator, server: str) -> None:
    with served_apart(server, tmp_path, origins=simulator.origins) as process, ThreadPoolExecutor(8) as threads:
        rss = []
        for _ in range(3):
            list(threads.map(sessions_of, [process] * 8, [25] * 8))
            rss.append(process.rss())
        assert rss[-1] - rss[0] < 4 * MIB, rss
    assert len(simulator.sessions) == 600
    simulator.wait_until(lambda simulator: not simulator.open_sessions)


@TWO
def test_case_20_a_long_session_takes_no_more_memory(tmp_path: Path, simulator: Simulator, server: str) -> None:
    count, text = 50_000, json.dumps({"type": "Turn", "transcript": "word " * 20})
    with served_apart(server, tmp_path, origins=simulator.origins) as process:
        sessions_of(process, 8)
        before = process.rss()
        simulator.fail(SocketFault.says(*[text] * count))
        with RawSession(process.url) as caller:
            caller.read_until(b"Begin")
            received = len(caller.received)
            while received < count * len(text):
                received += len(caller.sock.recv(1 << 20))
            assert process.rss() - before < 8 * MIB
