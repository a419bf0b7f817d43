"""The other sessions: speech, voice agents, the echo; and all of it over TLS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest
from dialing import close_of, dial, masked, raw_session, read_json, rest, say
from rawsocket import read_all
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from keypool_asgi.testing import Fault, Simulator, SocketFault, silence_wav
from keypool_asgi.testing.simulator.sockets.frames import frame


def kinds(messages) -> list[str]:
    return [message["type"] for message in messages]


# Speech


def test_speech_from_begin_to_termination(sim) -> None:
    with dial(sim, "tts", voice_id="aai-anna", sample_rate=8000, encoding="mulaw") as ws:
        begin = read_json(ws)
        say(ws, "Generate", text="Hello ")
        say(ws, "Generate", text="there.")
        say(ws, "Flush")
        say(ws, "Generate", text="Bye.")
        say(ws, "Terminate")
        said = rest(ws)
    assert (begin["type"], begin["configuration"]["voice_id"]) == ("Begin", "aai-anna")
    assert begin["expires_at"] == int(sim.sessions[0].opened + 3600)
    assert kinds(said) == [
        *["Audio"] * 9,
        *("FlushDone", "WordBoundaries"),
        *["Audio"] * 3,
        *("FlushDone", "WordBoundaries", "Termination"),
    ]
    assert len(base64.b64decode(said[0]["audio"])) == 640
    assert said[9] == {"type": "FlushDone", "flush_id": 0, "audio_duration_ms": 720}
    assert [word["word"] for word in said[10]["words"]] == ["Hello", "there."]
    assert said[-2]["audio_start_ms"] == 720
    assert (said[-1]["total_input_char_length"], said[-1]["audio_duration_seconds"]) == (16, 0.96)
    assert (sim.billed("characters"), sim.billed("stream_seconds")) == (16, 0)
    assert sim.sessions[0].state == "terminated"


def test_speech_is_cancelled(sim) -> None:
    with dial(sim, "tts", word_boundaries="false") as ws:
        say(ws, "Generate", text="x" * 1000)
        say(ws, "Flush")
        say(ws, "Generate", text="never flushed")
        while read_json(ws)["type"] != "Audio":
            pass
        say(ws, "Cancel")
        messages = []
        while "Cancelled" not in kinds(messages):
            messages.append(read_json(ws))
        say(ws, "Flush")
        assert read_json(ws) == {"type": "FlushDone", "flush_id": 2, "audio_duration_ms": 0}
        say(ws, "Terminate")
        assert kinds(rest(ws)) == ["Termination"]
    assert messages[-1]["audio_duration_seconds"] == pytest.approx(0.08 * len(messages))
    assert 0 < messages[-1]["audio_duration_seconds"] < 10


@pytest.mark.parametrize(
    ("query", "messages", "code", "kind"),
    [
        ({"voice_id": "aai-nobody"}, [], 3006, "voice_not_found"),
        ({"sample_rate": 12_345}, [], 3006, "invalid_parameter"),
        ({"encoding": "mp3"}, [], 3006, "invalid_parameter"),
        ({}, ['{"type": "Hello"}'], 3006, "invalid_message"),
        ({}, [b"audio"], 3006, "invalid_message"),
        ({}, ["nonsense"], 3006, "error"),
        ({}, [json.dumps({"type": "Generate", "text": "x" * 2001})], 3006, "text_too_long"),
        ({}, [json.dumps({"type": "Generate", "text": "x" * 2000})] * 5, 3010, "backlog_exceeded"),
    ],
)
def test_speech_refuses(sim, query, messages, code, kind) -> None:
    with dial(sim, "tts", **query) as ws:
        for message in messages:
            ws.send(message)
        error = rest(ws)[-1]
        assert (error["error_code"], error["error_type"], error["retryable"]) == (code, kind, False)
        assert close_of(ws) == (code, "See Error message for details")


def test_speech_takes_the_raw_key_and_its_own_tokens(sim) -> None:
    for settings in ({"key": f"Bearer {sim.key}"}, {"key": None}, {"key": sim.add_token()}):
        with dial(sim, "tts", **settings) as ws:
            assert (rest(ws)[0]["error_type"], close_of(ws)[0]) == ("unauthorized", 1008)
    with dial(sim, "tts", key=None, token=sim.add_token(service="tts")) as ws:
        assert read_json(ws)["type"] == "Begin"


def test_speech_ends_when_it_is_dropped_or_idle(timed, clock) -> None:
    with dial(timed, "tts") as ws:
        read_json(ws)
    timed.wait_until(lambda sim: sim.sessions[0].state == "dropped")
    assert (timed.open_sessions, timed.bill) == (0, [])
    with dial(timed, "tts") as ws:
        read_json(ws)
        clock.now += 120
        assert rest(ws)[0]["error_type"] == "inactivity_timeout"


# Voice agents


def test_an_agent_from_ready_to_ended(timed, clock) -> None:
    with dial(timed, "agents", key=f"Bearer {timed.key}") as ws:
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.1)
        say(ws, "session.update", session={"system_prompt": "Be brief.", "greeting": "Hi!"})
        greeting = [read_json(ws) for _ in range(7)]
        audio = base64.b64encode(silence_wav(1.2, sample_rate=24_000)[44:]).decode()
        for _ in range(2):
            say(ws, "input.audio", audio=audio)
        turn = []
        while kinds(turn)[-1:] != ["reply.done"]:
            turn.append(read_json(ws))
        say(ws, "session.update", session={})
        say(ws, "reply.create", instructions="Go on.")
        assert read_json(ws)["type"] == "session.updated"
        clock.now += 60
        say(ws, "session.end")
        ended = rest(ws)[-1]
        assert close_of(ws) == (1000, "")
    session = timed.sessions[0]
    assert kinds(greeting) == [
        *("session.ready", "reply.started", *["reply.audio"] * 3, "transcript.agent", "reply.done")
    ]
    assert greeting[0]["session_id"] == session.id
    assert kinds(turn)[:2] == ["input.speech.started", "transcript.user.delta"]
    assert next(each for each in turn if each["type"] == "transcript.user")["text"].count(" ") == 5
    assert (ended["session_duration_seconds"], ended["audio_duration_seconds"]) == (60, 2)
    assert (session.state, timed.billed("stream_seconds"), timed.bill[0].product) == ("terminated", 60, "agents")


def test_an_agent_that_was_left_costs_half_a_minute_more(timed, clock) -> None:
    with dial(timed, "agents") as ws:
        say(ws, "session.update", session={})
        read_json(ws)
        clock.now += 10
    timed.wait_until(lambda sim: sim.sessions[0].state == "dropped")
    clock.now += 29
    assert (timed.open_sessions, timed.bill) == (1, [])
    clock.now += 100
    assert (timed.open_sessions, timed.billed("stream_seconds")) == (0, 40)


def test_an_agent_is_resumed_within_its_grace(timed, clock) -> None:
    ready = left(timed)
    clock.now += 20
    with dial(timed, "agents") as ws:
        say(ws, "session.resume", session_id=ready["session_id"])
        assert read_json(ws) == ready
        clock.now += 5
        say(ws, "session.end")
        rest(ws)
    assert [session.id for session in timed.sessions] == [ready["session_id"]] * 2
    assert timed.billed("stream_seconds") == 25


def left(sim) -> dict[str, str]:
    with dial(sim, "agents") as ws:
        say(ws, "session.update", session={})
        ready = read_json(ws)
    sim.wait_until(lambda sim: sim.sessions[-1].state == "dropped")
    return ready


def test_an_agent_is_not_resumed_by_strangers_or_too_late(timed, clock) -> None:
    timed.add_account("account-2")
    stranger = timed.add_key(project=timed.add_project("project-2", account="account-2").name)
    ident = left(timed)["session_id"]
    answers = []
    for key, wanted, wait in [(stranger, ident, 0), ("", "unknown", 0), ("", ident, 31)]:
        clock.now += wait
        with dial(timed, "agents", key=key) as ws:
            say(ws, "session.resume", session_id=wanted)
            answers.append((rest(ws)[0]["code"], close_of(ws)[0]))
    assert answers == [("session_forbidden", 1008), ("session_not_found", 1008), ("session_expired", 1008)]
    assert [each.kind for each in timed.foreign_requests] == ["agent_session"]


def test_stored_agents_belong_to_the_account(sim) -> None:
    sim.add_account("account-2")
    stranger = sim.add_key(project=sim.add_project("project-2", account="account-2").name)
    url, headers = sim.origins["agents"] + "/v1/agents", {"authorization": sim.key}
    ident = httpx.post(url, json={"name": "a"}, headers=headers).json()["id"]
    answers = []
    for key, wanted in [("", ident), (stranger, ident), ("", "unknown")]:
        with dial(sim, "agents", key=key) as ws:
            say(ws, "session.update", session={"agent_id": wanted})
            answers.append(read_json(ws).get("code"))
    assert answers == [None, "session_forbidden", "session_forbidden"]
    assert [each.kind for each in sim.foreign_requests] == ["agent"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", "invalid_format"),
        (b"bytes", "invalid_format"),
        ('{"type": "hello"}', "invalid_format"),
        ('{"type": "input.audio", "audio": ""}', "session_not_ready"),
        ('{"type": "session.update", "session": 1}', "invalid_format"),
        ('{"type": "session.update", "session": {"input": {"format": {"encoding": "mp3"}}}}', "invalid_value"),
    ],
)
def test_an_agent_complains_and_goes_on(sim, message, code) -> None:
    with dial(sim, "agents") as ws:
        ws.send(message)
        error = read_json(ws)
        assert (error["type"], error["code"]) == ("session.error", code)
        say(ws, "session.update", session={})
        assert read_json(ws)["type"] == "session.ready"
        say(ws, "input.audio", audio="not base64!")
        assert read_json(ws)["code"] == "invalid_audio"


def test_an_agent_refuses_in_its_own_words(sim) -> None:
    with dial(sim, "agents", key="Bearer nobody") as ws:
        assert (rest(ws)[0]["code"], close_of(ws)[0]) == ("unauthorized", 1008)
    sim.fail(SocketFault.errored(1011, "oops", after=1))
    with dial(sim, "agents") as ws:
        say(ws, "session.update", session={})
        assert kinds(rest(ws)) == ["session.ready", "session.error"]
        assert close_of(ws) == (1011, "oops")


def test_an_agent_ends_at_its_limit(timed, clock) -> None:
    with dial(timed, "agents", key=None, token=timed.add_token(service="agents", max_session_seconds=60)) as ws:
        say(ws, "session.update", session={})
        read_json(ws)
        clock.now += 60
        assert kinds(rest(ws)) == ["session.ended"]
    assert timed.billed("stream_seconds") == 60


# Echo


@pytest.mark.parametrize("service", ["streaming", "tts", "agents"])
def test_the_echo_returns_every_message(service) -> None:
    messages = ["", b"", "text é", b"\xff\x00", '{"type":"Terminate"}', "x" * (1 << 20), bytes(1 << 20)]
    with Simulator(echo=True).running() as sim, dial(sim, service) as ws:
        if service != "agents":
            assert read_json(ws)["type"] == "Begin"
        for message in messages:
            ws.send(message)
            assert ws.recv(timeout=5) == message
        ws.send(iter(["one", "", "two"]))
        assert list(ws.recv_streaming()) == ["one", "", "two", ""]
        ws.close(4321, "because é")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
        assert closed.value.rcvd == closed.value.sent
        sim.wait_until(lambda sim: not sim.open_requests)
        assert (sim.open_sessions, sim.sessions[0].client_close) == (0, (4321, "because é"))


@pytest.mark.parametrize("payload", [b"", b"\x03\xf4", b"\x13\x87" + b"r" * 123])
def test_the_echo_returns_the_close(sim, payload) -> None:
    sim.settings.echo = True
    with raw_session(sim, line="GET /agents/v1/ws") as sock:
        sock.sendall(masked(8, payload))
        assert read_all(sock) == frame(8, payload)


def test_the_echo_refuses_as_the_service_does(sim) -> None:
    sim.settings.echo = True
    with dial(sim, key="nobody") as ws:
        assert close_of(ws)[0] == 1008


def test_many_echoes_in_the_loop_of_a_test() -> None:
    async def check() -> None:
        sim = Simulator(echo=True)
        async with sim.serving():
            url = sim.socket_origins["agents"] + "/v1/ws"

            async def one(number: int) -> None:
                async with connect(url, additional_headers={"Authorization": sim.key}, proxy=None) as ws:
                    for n in range(20):
                        await ws.send(f"{number}-{n}")
                        assert await ws.recv() == f"{number}-{n}"

            await asyncio.gather(*(one(number) for number in range(30)))
            assert (len(sim.sessions), sim.violations) == (30, [])
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(check())


# TLS


@pytest.fixture(scope="module")
def certificate():
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        )
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        out = ["-out", str(files[0]), "-keyout", str(files[1])]
        subprocess.run([*command.split(), *names, *out], check=True, capture_output=True)
        yield files


@pytest.fixture(scope="module")
def trusting(certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])


@pytest.mark.parametrize("form", ["files", "context"])
def test_everything_over_tls(certificate, trusting, form) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Simulator(tls=certificate if form == "files" else context).running() as sim:
        assert sim.url.startswith("https://")
        assert sim.socket_origins["tts"].startswith("wss://")
        with httpx.Client(base_url=sim.url, headers={"authorization": sim.key}, verify=trusting) as http:
            wav = silence_wav(30)
            assert http.post("/v2/upload", content=wav).status_code == 200
            sim.fail(Fault.large_body(3 << 20), times=1)
            assert len(http.get("/v2/transcript").content) == 3 << 20
        assert sim.uploads[0].sha256 == hashlib.sha256(wav).hexdigest()
        with dial(sim, _ssl=trusting) as ws:
            read_json(ws)
            ws.send(bytes(3200))
            say(ws, "Terminate")
            assert kinds(rest(ws)) == ["Termination"]
        assert (sim.violations, sim.sessions[0].state) == ([], "terminated")
        assert {record.outcome for record in sim.requests} == {"answered"}


def test_faults_over_tls(certificate, trusting) -> None:
    with Simulator(tls=certificate).running() as sim:
        for fault in (Fault.reset(), Fault.fin(), Fault.malformed("garbage")):
            rule = sim.fail(fault)
            with pytest.raises(httpx.TransportError):
                httpx.get(sim.url, verify=trusting)
            sim.heal(rule)
        for how in ("reset", "fin"):
            rule = sim.fail(SocketFault.dropped(how))
            with dial(sim, _ssl=trusting) as ws:
                assert close_of(ws) is None
            sim.heal(rule)
        with dial(sim, _ssl=trusting) as ws:
            read_json(ws)
            ws.socket.close()
        sim.wait_until(lambda sim: not sim.open_requests)
        assert [session.state for session in sim.sessions] == ["closed", "closed", "dropped"]
