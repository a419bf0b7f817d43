"""Server matrix: WebSocket sessions over real sockets, on every server and in every host.

What a server makes of them, in the versions that the tests run on:

=========================  =====================  ===============  ==============  ==============================
server                     the caller's close     our close        refusal with a  at its own shutdown a live
                           reaches upstream       reaches it       status          caller gets
=========================  =====================  ===============  ==============  ==============================
uvicorn websockets         code and reason        code and reason  yes             1012 at once, before lifespan
uvicorn websockets-sansio  code and reason        code and reason  yes; it logs a  1012 at once, before lifespan
                                                                   false error
uvicorn wsproto            code and reason        code and reason  yes             1012 at once, before lifespan
hypercorn                  1001 whatever it was   code and reason  yes             1011 after ``graceful_timeout``,
                                                                                   before lifespan
granian, both loops        the code alone         code and reason  yes             the connection cut, after
                                                                                   lifespan
=========================  =====================  ===============  ==============  ==============================

So whoever wants live callers to be told 1012 with the closing figures calls ``drain()`` before the server stops. A
close code that was never on the wire cannot be told: an empty close frame of either side becomes 1000 for the other, a
caller that vanished 1001 for upstream (uvicorn with websockets-sansio or wsproto, and granian, say 1005 of it, so it
is 1000), an upstream that vanished 1011 for the caller. granian does not say that a caller has left before it was
accepted: ``opening_seconds`` ends that, and upstream is told to end what had begun.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import HOSTS, SOCKET_SERVERS, Served, serve
from harness.hosts import PREFIX
from matrix.callers import TOKEN, settings_of, simulated
from matrix.session_tools import (
    AUDIO,
    STREAMING,
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
from websockets.sync.client import ClientConnection

from keypool_asgi import KeyPoolMiddleware, SessionLimits
from keypool_asgi.testing import Simulator, SocketFault

# What uvicorn's oldest implementation stands on warns with every connection.
pytestmark = pytest.mark.filterwarnings("ignore:remove second argument of ws_handler:DeprecationWarning")

MIB = 1024 * 1024
QUICK = SessionLimits(closing_seconds=0.3, message_bytes=2 * MIB)


class Host:
    """A host with a WebSocket of its own, which returns what it is sent; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.calls.append((scope, receive, send))
        if scope["type"] != "websocket":
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        self.calls.append((message, None, None))


@dataclass
class World:
    """The pool around a host, on one server."""

    server: str
    simulator: Simulator
    app: KeyPoolMiddleware
    host: Host
    served: Served
    came_in: list[tuple[Any, Any, Any]]
    records: list[Any] = field(default_factory=list)

    @property
    def base(self) -> str:
        return self.served.ws_url + PREFIX

    @property
    def session(self) -> Any:
        """The newest one."""
        return self.simulator.sessions[-1]

    def ended(self, seconds: float = 5.0) -> Any:
        """The newest session, once upstream's connection has ended."""
        self.simulator.wait_until(lambda simulator: not simulator.open_requests, seconds)
        return self.session

    def is_free(self) -> None:
        """Fail if an exchange, a lease or a task is left."""
        self.served.settle(5)
        assert self.app.open_exchanges == 0
        assert [key.in_flight for key in self.app.keys()] == [0]


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Iterator[Simulator]:
    shared.heal()
    shared.forget()
    shared.settings.echo = False
    yield shared
    shared.settings.echo = False


@pytest.fixture(scope="module", params=SOCKET_SERVERS)
def running(shared: Simulator, request: pytest.FixtureRequest) -> Iterator[World]:
    host, records, came_in = Host(), [], []
    app = KeyPoolMiddleware(host, **settings_of(shared, on_exchange=records.append, sessions=QUICK))

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            came_in.append((scope, receive, send))
        await app(scope, receive, send)

    with serve(noting, request.param, guarded=False) as served:
        yield World(request.param, shared, app, host, served, came_in, records)


@pytest.fixture
def world(running: World, simulator: Simulator) -> Iterator[World]:
    for noted in (running.records, running.came_in, running.host.calls):
        noted.clear()
    yield running
    running.is_free()
    assert simulator.violations == []


# From beginning to end


def test_a_session_from_begin_to_termination(world: World) -> None:
    with dial(world.base) as ws:
        begin = read_json(ws)
        assert begin["type"] == "Begin"
        for _ in range(24):
            ws.send(AUDIO)
        ws.send(TERMINATE)
        kinds, close = kinds_until_close(ws)
        assert {"SpeechStarted", "Turn"} <= set(kinds)
        assert (kinds[-1], close) == ("Termination", (1000, ""))
    session = world.ended()
    assert (session.id, session.state, session.received) == (begin["id"], "terminated", 25)
    assert session.audio_bytes == 24 * len(AUDIO)
    world.is_free()
    (record,) = world.records
    assert (record.status, record.close_code, record.complete, record.keys) == (101, 1000, True, ("k1",))
    assert record.operation == "streaming.session"


def test_an_agents_session_whose_caller_speaks_first(world: World) -> None:
    with dial(world.base, "/v1/ws") as ws:
        ws.send(json.dumps({"type": "session.update", "session": {}}))
        assert read_json(ws)["type"] == "session.ready"
        ws.send(json.dumps({"type": "session.end"}))
        assert "session.ended" in kinds_until_close(ws)[0]
    assert world.ended().state == "terminated"


# Closes

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3005, 3008, 3999, 4000, 4001, 4999]
REASON = "réason"


def test_every_close_of_the_callers(world: World) -> None:
    """The simulator does not end this session at ``Terminate``, so that it is our close that comes."""
    world.simulator.settings.echo = True
    for code in CODES[::2]:
        with RawSession(world.served.url) as caller:
            caller.read_until(b"Begin")
            caller.send(frame(8, code.to_bytes(2, "big") + REASON.encode()))
            caller.read_to_end()
        session = world.ended()
        expected = {"hypercorn": (1001, ""), "granian": (code, ""), "uvicorn": (code, REASON)}
        assert session.client_close == expected[world.server.split("-")[0]]
        assert session.messages == [("text", '{"type":"Terminate"}')]


@pytest.mark.parametrize("reason", ["", REASON, "x" * 123], ids=["no reason", "reason", "long reason"])
def test_every_close_of_upstreams(world: World, reason: str) -> None:
    for code in (*CODES, 1014):
        rule = world.simulator.fail(SocketFault.closed(code, reason))
        with dial(world.base) as ws:
            assert read_json(ws)["type"] == "Begin"
            assert close_of(ws) == (code, reason)
        world.simulator.heal(rule)
    world.is_free()
    assert [record.close_code for record in world.records] == [*CODES, 1014]
    assert all(record.complete for record in world.records)


def test_closes_without_a_code(world: World) -> None:
    world.simulator.fail(SocketFault.closed(None), times=1)
    with dial(world.base) as ws:
        assert close_of(ws) == (1000, "")
    world.simulator.settings.echo = True
    with RawSession(world.served.url) as caller:
        caller.read_until(b"Begin")
        caller.send(frame(8))
        caller.read_to_end()
    assert world.ended().client_close == ((1001, "") if world.server == "hypercorn" else (1000, ""))


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_an_upstream_that_breaks_off(world: World, how: Any) -> None:
    world.simulator.fail(SocketFault.dropped(how, after=1))
    with dial(world.base) as ws:
        assert read_json(ws)["type"] == "Begin"
        ws.send(AUDIO)
        code, reason = close_of(ws)
    assert code == 1011
    assert reason


# Refusals


def test_a_refusal_with_a_status(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, fields, body = refusal_status(world.base, team=f"{TOKEN}x")
    assert (status, body["code"]) == (401, "UNAUTHORIZED")
    assert fields["www-authenticate"] == "Bearer"
    assert fields["content-type"] == "application/json"
    status, _, body = refusal_status(world.base, "/v3/nothing")
    assert (status, body["code"]) == (404, "NOT_FOUND")
    assert world.simulator.requests == []
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    false = [text for text in errors if "without completing handshake" in text]
    assert errors == false
    assert bool(false) == (world.server == "uvicorn-websockets-sansio"), "uvicorn's is a false one: all was said"


@pytest.mark.parametrize("agent", [None, "AssemblyAI/1.0 (sdk=Python/1.8.2 runtime_env=Python/3.11.7)"])
def test_a_refusal_in_band(world: World, agent: str | None) -> None:
    message, (code, reason) = refusal_in_band(world.base, team=f"{TOKEN}x", agent=agent)
    assert (message["type"], message["error_code"], message["code"]) == ("Error", 4001, "UNAUTHORIZED")
    assert code == 4001
    assert message["error"].startswith(reason)
    assert reason
    assert world.simulator.requests == []


def test_no_key_in_both_forms(world: World) -> None:
    world.simulator.fail(SocketFault.closed(1011, before_begin=True))
    status, _, body = refusal_status(world.base)
    assert (status, body["code"]) == (502, "UPSTREAM_FAILED")
    message, (code, _) = refusal_in_band(world.base, agent=None)
    assert (message["code"], message["error_code"], code) == ("UPSTREAM_FAILED", 1013, 1013)


# Subprotocols

BROWSER = [f"keypool-token.{TOKEN}", "keypool"]


@pytest.mark.parametrize("offered", [BROWSER, BROWSER[::-1], BROWSER[:1]])
def test_a_subprotocol_is_chosen(world: World, offered: list[str]) -> None:
    with dial(world.base, team=None, subprotocols=offered) as ws:
        assert ws.subprotocol == ("keypool" if "keypool" in offered else offered[0])
        assert read_json(ws)["type"] == "Begin"
        ws.send(TERMINATE)
        assert close_of(ws) == (1000, "")
    assert world.ended().state == "terminated"
    assert world.simulator.requests[-1].header("sec-websocket-protocol") is None
    refused = [f"{name}x" if name != "keypool" else name for name in offered]
    with dial(world.base, team=None, subprotocols=refused) as ws:
        assert ws.subprotocol in refused
        assert read_json(ws)["error_code"] == 4001
        assert close_of(ws)[0] == 4001


# Messages


def test_messages_of_every_kind_pass_as_they_are(world: World) -> None:
    world.simulator.settings.echo = True
    messages = [
        "text",
        b"binary",
        "",
        b"",
        "é€\N{GRINNING FACE}\0\u2028",
        bytes(range(256)),
        '{"type": "Terminat',
        "x" * MIB,
        os.urandom(MIB),
        "\N{GRINNING FACE}" * (MIB // 4),
    ]
    with dial(world.base) as ws:
        read_json(ws)
        for message in messages:
            ws.send(message)
            assert ws.recv(timeout=10) == message
        ws.send(["frag", "men", "", "ted"])
        assert ws.recv(timeout=10) == "fragmented"
    assert world.ended().received == len(messages) + 1 + 1  # and our Terminate


def test_ten_thousand_messages_in_order(world: World) -> None:
    world.simulator.settings.echo = True
    count = 10_000
    with dial(world.base) as ws:
        read_json(ws)
        sender = threading.Thread(target=_send_numbers, args=(ws, count))
        sender.start()
        seen = [ws.recv(timeout=10) for _ in range(count)]
        sender.join()
    assert seen == [_numbered(number) for number in range(count)]
    world.ended()


def _send_numbers(ws: ClientConnection, count: int) -> None:
    for number in range(count):
        ws.send(_numbered(number))


def _numbered(number: int) -> str | bytes:
    return str(number) if number % 2 else number.to_bytes(4, "big")


# Callers who vanish


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_caller_who_vanishes(world: World, how: str) -> None:
    caller = RawSession(world.served.url)
    caller.read_until(b"Begin")
    caller.send(frame(2, AUDIO))
    world.simulator.wait_until(lambda simulator: simulator.sessions[-1].received)
    caller.vanish(how)
    assert world.ended().state == "terminated"
    world.is_free()
    assert not world.records[0].complete or world.server.startswith(("granian", "uvicorn"))


def test_a_caller_whose_process_is_killed(world: World) -> None:
    program = "import sys, time; from matrix.session_tools import *; c = RawSession(sys.argv[1]); "
    program += "c.read_until(b'Begin'); print('up', flush=True); time.sleep(60)"
    tests = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", program, world.served.url]
    environment = os.environ | {"PYTHONPATH": f"{tests}:{Path(tests).parent}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
        assert world.ended().state == "terminated"


def test_a_caller_who_gives_up_before_upstream_answers(world: World) -> None:
    """As SDKs do after a second: what upstream has begun by then is ended."""
    world.simulator.fail(SocketFault.late(0.3))
    caller = RawSession.__new__(RawSession)
    with pytest.raises(TimeoutError):
        caller.__init__(world.served.url, timeout=0.1)  # type: ignore[misc]
    caller.vanish("fin")
    assert world.ended().state == "terminated"


# Limits of ours, as callers see them


def test_a_message_that_is_too_long(world: World) -> None:
    with dial(world.base) as ws:
        read_json(ws)
        ws.send(bytes(QUICK.message_bytes + 1))
        kinds, (code, reason) = kinds_until_close(ws)
    assert kinds == ["Termination"]
    assert (code, str(QUICK.message_bytes) in reason) == (1009, True)
    assert world.ended().state == "terminated"


def test_a_drain(world: World) -> None:
    """Live callers get their closing figures and 1012, new ones a 503 in either form."""
    try:
        with dial(world.base) as ws:
            read_json(ws)
            ws.send(AUDIO)
            world.served.call(world.app.drain, 5)
            kinds, (code, _) = kinds_until_close(ws)
            assert (kinds[-1], code) == ("Termination", 1012)
        assert world.ended().state == "terminated"
        status, fields, body = refusal_status(world.base)
        assert (status, body["code"], fields["retry-after"]) == (503, "DRAINING", "1")
        message, (code, _) = refusal_in_band(world.base, agent=None)
        assert (message["code"], code) == ("DRAINING", 1013)
    finally:
        world.app._parts.gate.reopen()


# The host's own


@pytest.mark.parametrize("path", ["/ws", "/v1/assemblyaiX/v3/ws", "/", "/v1/ws?token=theirs"])
def test_a_foreign_session_is_the_hosts(world: World, path: str) -> None:
    """Scope, receive and send are the server's own objects (invariant I1)."""
    with dial(world.served.ws_url, path, subprotocols=["one", "two"]) as ws:
        assert ws.subprotocol == "one"
        for message in ("text", b"binary", ""):
            ws.send(message)
            assert ws.recv(timeout=5) == message
        ws.close(4321, "bye")
    end = time.monotonic() + 5
    while len(world.host.calls) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    (came,), (went, (left, _, _)) = world.came_in, world.host.calls
    assert all(mine is theirs for mine, theirs in zip(came, went, strict=True))
    assert left["type"] == "websocket.disconnect"
    assert set(came[0]) == set(went[0])
    assert world.simulator.requests == []
    assert world.records == []


# In every host

HOST_SERVERS = ["uvicorn-websockets-sansio", "hypercorn", "granian"]


@pytest.mark.parametrize("server", HOST_SERVERS)
@pytest.mark.parametrize("host", HOSTS)
def test_every_host(shared: Simulator, simulator: Simulator, host: str, server: str) -> None:
    hosted = HOSTS[host](**settings_of(shared, sessions=QUICK))
    options = hosted.serving
    with serve(hosted.app, server, **options) as served:
        base = served.ws_url + hosted.base
        with dial(base) as ws:
            assert read_json(ws)["type"] == "Begin"
            ws.send(AUDIO)
            ws.send(TERMINATE)
            assert close_of(ws) == (1000, "")
        status, _, body = refusal_status(base, team=f"{TOKEN}x")
        assert (status, body["code"]) == (401, "UNAUTHORIZED")
        message, (code, _) = refusal_in_band(base, team=None, subprotocols=[f"keypool-token.{TOKEN}x", "keypool"])
        assert (message["code"], code) == ("UNAUTHORIZED", 4001)
        status, _, body = refusal_status(base, "/v3/nothing")
        assert (status, body["code"]) == (404, "NOT_FOUND")
        caller = RawSession(served.url, served.path + hosted.base + STREAMING)
        caller.read_until(b"Begin")
        caller.vanish("reset")
        simulator.wait_until(lambda simulator: not simulator.open_requests)
    assert [session.state for session in simulator.sessions] == ["terminated", "terminated"]
    assert simulator.violations == []
