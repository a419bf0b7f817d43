"""Streaming transcription over a WebSocket: what it says, what it takes, when it ends, what it costs."""

from __future__ import annotations

import time

import pytest
from dialing import close_of, dial, read_json, rest, say

from keypool_asgi.testing import Simulator, silence_wav, tone_wav


def chunks(audio: bytes, size: int = 3200) -> list[bytes]:
    return [audio[start : start + size] for start in range(0, len(audio), size)]


# A session


def test_a_session_from_begin_to_termination(sim) -> None:
    with dial(sim, sample_rate=16_000, speech_model="u3-rt-pro", _additional_headers=headers(sim)) as ws:
        begin = read_json(ws)
        for chunk in chunks(tone_wav(6)[44:]):
            ws.send(chunk)
        say(ws, "Terminate")
        said = rest(ws)
        assert close_of(ws) == (1000, "")

    session = sim.sessions[0]
    assert begin["id"] == session.id
    assert begin["expires_at"] == pytest.approx(time.time() + 10_800, abs=2)
    assert begin["configuration"] == {"model": "u3-rt-pro", "mode": "balanced", "api_version": "2024-01-01"}
    turns = [message for message in said if message["type"] == "Turn"]
    ended = [turn for turn in turns if turn["end_of_turn"]]
    assert [turn["turn_order"] for turn in ended] == [0, 1, 2]
    assert [len(turn["words"]) for turn in ended] == [6, 6, 3]
    assert all(word["word_is_final"] for turn in ended for word in turn["words"])
    assert [turn["transcript"].endswith(".") for turn in turns] == [turn["end_of_turn"] for turn in turns]
    assert said[-1] == {"type": "Termination", "audio_duration_seconds": 6, "session_duration_seconds": 0}
    assert (session.state, session.audio_bytes, session.audio_seconds) == ("terminated", 192_000, 6.0)
    assert (session.received, session.messages[-1]) == (61, ("text", '{"type": "Terminate"}'))
    assert session.messages[0] == ("binary", tone_wav(6)[44:][:3200])
    assert (session.client_close, session.server_close) == ((1000, ""), (1000, ""))
    assert (session.key, session.project, session.token) == (sim.key, "project-1", None)
    record = sim.requests[0]
    assert (record.session, record.status, record.outcome) == (session.id, 101, "answered")
    assert (sim.open_requests, sim.open_sessions, sim.violations) == (0, 0, [])


def headers(sim) -> dict[str, str]:
    return {"Authorization": sim.key, "AssemblyAI-Version": "2024-01-01"}


@pytest.mark.parametrize("made", [tone_wav, silence_wav])
def test_the_same_audio_has_the_same_words_however_it_is_cut(sim, made) -> None:
    audio = made(5)[44:]
    assert words(sim, chunks(audio, 3200)) == words(sim, chunks(audio, 9600)[:-1] + chunks(audio[-6400:], 1600))
    assert words(sim, chunks(tone_wav(5, frequency=300)[44:])) != words(sim, chunks(tone_wav(5)[44:]))


def words(sim, audio: list[bytes]) -> list[str]:
    with dial(sim, include_partial_turns="false") as ws:
        for chunk in audio:
            ws.send(chunk)
        say(ws, "Terminate")
        return [message["transcript"] for message in rest(ws) if message["type"] == "Turn"]


def test_partial_turns_grow_word_by_word(sim) -> None:
    with dial(sim, speaker_labels="True", format_turns="False") as ws:
        for chunk in chunks(silence_wav(2.4)[44:], 12_800):
            ws.send(chunk)
        messages = [read_json(ws) for _ in range(8)]
    assert [message["type"] for message in messages] == ["Begin", "SpeechStarted", *["Turn"] * 6]
    turns = messages[2:]
    assert [len(turn["words"]) for turn in turns] == [1, 2, 3, 4, 5, 6]
    assert [word["word_is_final"] for word in turns[2]["words"]] == [True, True, False]
    assert {word["speaker"] for turn in turns for word in turn["words"]} == {turns[-1]["speaker_label"]} == {"A"}
    assert [turn["turn_is_formatted"] for turn in turns] == [False] * 6


def test_a_turn_is_ended_on_demand(sim) -> None:
    with dial(sim) as ws:
        ws.send(silence_wav(0.4)[44:])
        say(ws, "UpdateConfiguration", format_turns=False)
        say(ws, "KeepAlive")
        say(ws, "ForceEndpoint")
        say(ws, "ForceEndpoint")
        messages = [read_json(ws) for _ in range(4)]
        say(ws, "Terminate")
        assert [message["type"] for message in rest(ws)] == ["Termination"]
    assert (messages[-1]["end_of_turn"], messages[-1]["turn_is_formatted"]) == (True, False)


@pytest.mark.parametrize(
    ("encoding", "rate", "size", "seconds"),
    [
        ("pcm_s16le", 8000, 16_000, 1.0),
        ("pcm_mulaw", 8000, 8000, 1.0),
        ("opus", 16_000, 80, 0.02),
        ("aac", 1, 400, 0.1),
    ],
)
def test_audio_is_measured(sim, encoding, rate, size, seconds) -> None:
    parameters = {"sample_rate": rate} if "pcm" in encoding else {}
    with dial(sim, encoding=encoding, **parameters) as ws:
        ws.send(bytes(size))
        say(ws, "Terminate")
        rest(ws)
    assert sim.sessions[0].audio_seconds == pytest.approx(seconds)


def test_opus_has_a_word_for_twenty_packets(sim) -> None:
    with dial(sim, encoding="opus", include_partial_turns="false") as ws:
        for number in range(60):
            ws.send(bytes([number]) * 80)
        say(ws, "Terminate")
        turn = next(message for message in rest(ws) if message["type"] == "Turn")
    assert len(turn["words"]) == 3


# What it does not take


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ('{"type": "Hello"}', 3006, "Invalid Message Type: Hello"),
        ("nonsense", 3006, "Invalid JSON: 'nonsense'"),
        ("", 3006, "Invalid JSON: ''"),
        ("[]", 3006, "Invalid Message: '[]'"),
        ('{"no": "type"}', 3006, "Invalid Message"),
        (bytes(3199 // 2), 3007, "Input duration violation: 49.9688 ms. Expected between 50 and 1000 ms"),
        (bytes(32_002), 3007, "Input duration violation: 1000.06 ms. Expected between 50 and 1000 ms"),
        (b"", 3007, "Input duration violation: 0 ms"),
        (bytes(131_073), 1009, "Message is over 131072 bytes"),
        ("x" * 131_073, 1009, "Message is over 131072 bytes"),
    ],
)
def test_messages_that_it_does_not_take(sim, message, code, text) -> None:
    with dial(sim) as ws:
        read_json(ws)
        ws.send(message)
        said = rest(ws)
        assert close_of(ws) == (code, said[0]["error"])
    assert said[0].keys() == {"type", "error_code", "error"}
    assert (said[0]["error_code"], said[0]["error"][: len(text)]) == (code, text)
    assert (sim.sessions[0].state, sim.sessions[0].refusal) == ("closed", said[0]["error"])
    assert sim.billed("stream_seconds") > 0


def test_a_long_error_is_told_in_its_message_only(sim) -> None:
    with dial(sim) as ws:
        ws.send("x" * 200)
        assert len(rest(ws)[-1]["error"]) > 200
        assert close_of(ws) == (3006, "See Error message for details")


@pytest.mark.parametrize(
    "query", [{"sample_rate": "fast"}, {"sample_rate": 7999}, {"encoding": "mp3"}, {"inactivity_timeout": 4}]
)
def test_parameters_that_it_does_not_take(sim, query) -> None:
    with dial(sim, **query) as ws:
        assert close_of(ws)[0] == 3006
    assert (sim.sessions[0].begun, sim.bill) == (False, [])


def test_audio_that_is_faster_than_the_clock(timed, clock) -> None:
    timed.settings.audio_ahead = 2.0
    with dial(timed) as ws:
        for _ in range(2):
            ws.send(silence_wav(1)[44:])
        timed.wait_until(lambda sim: sim.sessions and sim.sessions[0].audio_seconds == 2)
        clock.now += 1
        for _ in range(2):
            ws.send(silence_wav(1)[44:])
        error = rest(ws)[-1]
    assert (error["error_code"], error["error"]) == (
        3007,
        "Audio Transmission Rate Exceeded: Received 4 sec. audio in 1 sec",
    )


# Ends by the clock


def test_it_ends_at_its_limit(timed, clock) -> None:
    with dial(timed) as ws:
        read_json(ws)
        clock.now += 10_800
        assert rest(ws)[-1]["error"] == "Session Expired: Maximum session duration exceeded"
        assert close_of(ws)[0] == 3008
    assert timed.billed("stream_seconds") == 10_800


@pytest.mark.parametrize("keep_alive", [False, True])
def test_it_ends_when_nothing_comes(timed, clock, keep_alive) -> None:
    with dial(timed, inactivity_timeout=60) as ws:
        read_json(ws)
        ws.send(silence_wav(0.1)[44:])
        timed.wait_until(lambda sim: sim.sessions[0].received == 1)
        clock.now += 40
        if keep_alive:
            say(ws, "KeepAlive")
            timed.wait_until(lambda sim: sim.sessions[0].received == 2)
        clock.now += 40
        if keep_alive:
            say(ws, "Terminate")
        assert close_of(ws)[0] == (1000 if keep_alive else 3006)


def test_heartbeats_if_they_are_asked_for(timed, clock) -> None:
    with dial(timed, session_heartbeat="true") as ws:
        read_json(ws)
        ws.send(silence_wav(0.2)[44:])
        timed.wait_until(lambda sim: sim.sessions[0].received == 1)
        clock.now += 5
        beat = read_json(ws)
    assert (beat["type"], beat["total_audio_received_ms"], beat["total_duration_ms"]) == ("Heartbeat", 200, 5000)


# What it costs


def test_the_bill_is_by_the_clock(timed, clock) -> None:
    with dial(timed) as ws:
        read_json(ws)
        clock.now += 90
        assert (timed.bill, timed.open_sessions, timed.sessions[0].seconds) == ([], 1, 90)
        say(ws, "Terminate")
        assert rest(ws)[-1]["session_duration_seconds"] == 90
    clock.now += 1000
    line = timed.bill[0]
    assert (line.product, line.unit, line.quantity, line.resource) == (
        "streaming",
        "stream_seconds",
        90,
        timed.sessions[0].id,
    )


@pytest.mark.parametrize("how", ["close", "cut"])
@pytest.mark.parametrize(("query", "until"), [({}, 10_800), ({"inactivity_timeout": 60}, 60)])
def test_a_dropped_session_runs_on(timed, clock, how, query, until) -> None:
    with dial(timed, **query) as ws:
        read_json(ws)
        if how == "cut":
            ws.socket.shutdown(2)
    timed.wait_until(lambda sim: sim.sessions[0].state == "dropped")
    session = timed.sessions[0]
    assert session.client_close == ((1000, "") if how == "close" else None)
    assert (timed.requests[0].outcome, timed.open_requests) == ("answered" if how == "close" else "abandoned", 0)
    assert (timed.open_sessions, session.running, timed.bill) == (1, True, [])
    clock.now += until - 1
    assert timed.open_sessions == 1
    clock.now += 100
    assert (timed.open_sessions, timed.sessions[0].ended - session.opened) == (0, until)
    assert timed.billed("stream_seconds") == until


def test_what_was_terminated_is_over_even_if_nobody_waits_for_the_end(sim) -> None:
    with dial(sim) as ws:
        say(ws, "Terminate")
        ws.socket.shutdown(1)
    sim.wait_until(lambda sim: sim.sessions[0].state == "terminated")
    assert sim.open_sessions == 0


def test_a_stop_ends_what_is_open(clock) -> None:
    sim = Simulator(clock=clock)
    with sim.running():
        context = dial(sim)
        ws = context.__enter__()
        read_json(ws)
        clock.now += 10
    assert (sim.sessions[0].state, sim.billed("stream_seconds"), sim.open_requests) == ("closed", 10, 0)
    ws.close()


# What is kept


def test_the_last_messages_are_kept(sim) -> None:
    sim.settings.keep_messages = 3
    with dial(sim) as ws:
        for chunk in chunks(silence_wav(1)[44:]):
            ws.send(chunk)
        say(ws, "Terminate")
        rest(ws)
    session = sim.sessions[0]
    assert (session.received, [kind for kind, _ in session.messages]) == (11, ["binary", "binary", "text"])


def test_what_is_over_is_forgotten(sim) -> None:
    with dial(sim):
        pass
    sim.wait_until(lambda sim: sim.sessions[0].state == "dropped")
    with dial(sim) as ws:
        read_json(ws)
        sim.forget()
        assert [session.number for session in sim.sessions] == [2]
        assert sim.open_sessions == 1
        say(ws, "Terminate")
        rest(ws)
    assert [session.state for session in sim.sessions] == ["terminated"]
