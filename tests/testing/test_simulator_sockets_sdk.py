"""The official Python SDK opens sessions at the simulator, and finds in it what it expects of AssemblyAI."""

from __future__ import annotations

import asyncio

import assemblyai as aai
import pytest
from assemblyai.streaming.v3 import (
    AsyncRealTimeTranscriber,
    RealTimeEvents,
    RealTimeParameters,
    RealTimeSessionParameters,
    RealTimeTranscriber,
    RealTimeTranscriberOptions,
)

from keypool_asgi.testing import Fault, SocketFault, silence_wav, tone_wav

# The SDK's own affair: it calls pydantic and websockets by old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PARAMETERS = RealTimeParameters(
    sample_rate=16_000, speech_model="universal-streaming-english", format_turns=True, keyterms_prompt=["a", "b"]
)


def options(sim, **settings) -> RealTimeTranscriberOptions:
    settings = settings or {"api_key": sim.key}
    return RealTimeTranscriberOptions(api_host=sim.socket_origins["streaming"], **settings)


def chunks(audio: bytes) -> list[bytes]:
    return [audio[start : start + 3200] for start in range(0, len(audio), 3200)]


def noted(client, seen: list[object]) -> None:
    for event in RealTimeEvents:
        client.on(event, lambda _, message: seen.append(message))


def kinds(seen: list[object]) -> list[str]:
    return [type(message).__name__ for message in seen]


@pytest.mark.parametrize("credential", ["key", "token"])
def test_a_session(sim, credential) -> None:
    client = RealTimeTranscriber(options(sim, **({} if credential == "key" else {"token": sim.add_token()})))
    seen: list[object] = []
    noted(client, seen)
    client.connect(PARAMETERS)
    client.stream(chunks(tone_wav(3)[44:]))
    client.set_params(RealTimeSessionParameters(max_turn_silence=500))
    client.force_endpoint()
    client.keep_alive()
    client.disconnect(terminate=True)

    assert kinds(seen)[0] == "BeginEvent"
    assert kinds(seen)[-1] == "TerminationEvent"
    assert seen[-1].audio_duration_seconds == 3
    ended = [message for message in seen if getattr(message, "end_of_turn", False)]
    assert [len(turn.words) for turn in ended] == [6, 1]
    session = sim.sessions[0]
    assert (session.state, session.key, session.query["keyterms_prompt"]) == ("terminated", sim.key, '["a", "b"]')
    assert (session.token is None) == (credential == "key")
    assert sim.violations == []


def test_a_disconnect_without_terminate_leaves_the_meter_on(sim) -> None:
    client = RealTimeTranscriber(options(sim))
    client.connect(PARAMETERS)
    client.stream(silence_wav(0.1)[44:])
    sim.wait_until(lambda sim: sim.sessions and sim.sessions[0].received)
    client.disconnect()
    sim.wait_until(lambda sim: sim.sessions[0].state == "dropped")
    assert sim.open_sessions == 1


@pytest.mark.parametrize(
    ("fault", "text", "code"),
    [
        (None, "Unauthorized Connection: Invalid API key", 1008),
        (SocketFault.refused(3009, "Too many"), "Too many", 3009),
        (SocketFault.closed(1011, "server is down"), "server is down", 1011),
        (Fault.status(429), "WebSocket handshake rejected (HTTP 429)", 429),
    ],
)
def test_errors_reach_the_handler(sim, fault, text, code) -> None:
    if fault is not None:
        sim.fail(fault)
    client = RealTimeTranscriber(options(sim, api_key="nobody" if fault is None else sim.key))
    seen: list[object] = []
    noted(client, seen)
    client.connect(PARAMETERS)
    if not isinstance(fault, Fault):
        client._read_thread.join(5)
    client.disconnect()
    assert (str(seen[-1]), seen[-1].code) == (text, code)


def test_an_asynchronous_session(sim) -> None:
    async def check() -> list[object]:
        client = AsyncRealTimeTranscriber(options(sim))
        seen: list[object] = []
        noted(client, seen)
        await client.connect(PARAMETERS)
        for chunk in chunks(silence_wav(1)[44:]):
            await client.stream(chunk)
        await client.disconnect(terminate=True)
        return seen

    seen = asyncio.run(check())
    assert {"BeginEvent", "TurnEvent", "TerminationEvent"} <= set(kinds(seen))
    assert sim.sessions[0].state == "terminated"


def test_speech(sim, sdk) -> None:
    with aai.TTSSession(config=aai.TTSConfig(voice_id="aai-jane"), client=sdk, word_boundaries=True) as session:
        audio = b"".join(session.speak("Good morning."))
        session.generate("Good bye.")
    assert len(audio) == 24_000 * 2 * 80 // 1000 * 10
    assert session.begin.id == sim.sessions[0].id
    assert session.termination.total_input_char_length == sim.billed("characters") == 22


def test_speech_that_is_refused(sim, sdk) -> None:
    sim.set_balance("account-1", -1)
    with pytest.raises(aai.TTSError, match="Insufficient account balance") as caught:
        aai.TTSSession(client=sdk).connect()
    assert (caught.value.error_code, caught.value.retryable) == ("insufficient_funds", False)
