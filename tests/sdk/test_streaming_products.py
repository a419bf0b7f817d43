"""Speech with the official SDK, and a voice agent with a client that is written by hand, through the pool over TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Iterator
from typing import Any

import assemblyai as aai
import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from keypool_asgi.testing import tone_wav

from .gateway import KEY_A, KEY_B
from .streaming_cases import CASES, Case, dialed
from .streaming_pool import OWN_TOKENS, Live, live

# The SDK's own affair: it calls pydantic and websockets by old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TYPICAL = [case for case in CASES if case.typical]
PIECE_BYTES = 24_000 * 2 * 80 // 1000


@pytest.fixture
def pool() -> Iterator[Live]:
    with live() as pool:
        yield pool


# Speech


def spoken_to(pool: Live, credential: str, **settings: Any) -> aai.TTSSession:
    """A session of speech as a user has it; ``settings`` are the session's."""
    given = aai.Settings(api_key=credential, tts_base_url=pool.url)
    client = aai.Client(settings=given, api_key_required=False)
    client.http_client.close()  # a session needs none
    return aai.TTSSession(config=aai.TTSConfig(voice_id="aai-jane"), client=client, **settings)


def test_speech(pool) -> None:
    """Audio comes piece by piece, and upstream bills the characters to the key that served."""
    with spoken_to(pool, pool.token, word_boundaries=True) as session:
        words: list[str] = []
        session.on("WordBoundaries", lambda event: words.extend(each.word for each in event.words))
        audio = b"".join(session.speak("Good morning."))
        session.generate("Good bye.")
    assert len(audio) == 10 * PIECE_BYTES
    assert words[:2] == ["Good", "morning."]
    assert session.termination.total_input_char_length == pool.sim.billed("characters") == 22
    (opened,) = pool.sim.sessions
    assert (opened.service, opened.state) == ("tts", "terminated")
    assert session.begin.id == opened.id
    assert opened.key in (KEY_A, KEY_B)


def test_asynchronous_speech(pool) -> None:
    async def work() -> bytes:
        given = aai.Settings(api_key=pool.token, tts_base_url=pool.url)
        async with aai.AsyncClient(settings=given) as client, aai.AsyncTTSSession(client=client) as session:
            return b"".join([piece async for piece in session.speak("Good morning.")])

    assert len(asyncio.run(work())) == 10 * PIECE_BYTES
    assert pool.sim.sessions[0].state == "terminated"


def test_speech_with_a_temporary_token_of_the_pool() -> None:
    """The token service has no helper in the SDK; its request is made by hand."""
    with live(**OWN_TOKENS) as pool:
        made = asked(pool, "/v1/token?product=tts&expires_in_seconds=60").json()
        with spoken_to(pool, "", token=made["token"]) as session:
            assert len(b"".join(session.speak("Good morning."))) == 10 * PIECE_BYTES
        assert pool.sim.sessions[0].state == "terminated"


def refused(pool: Live, credential: str, **settings: Any) -> aai.TTSError:
    with pytest.raises(aai.TTSError) as caught:
        spoken_to(pool, credential, **settings).connect()
    return caught.value


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_speech_that_is_refused_says_why(case: Case) -> None:
    """The sentence is what ``connect()`` raises."""
    with case.arranged() as pool:
        error = refused(pool, case.token)
        assert str(error) == case.sentence.replace("streaming.session", "speech.session")
        assert error.body["close_code"] == case.code


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_speech_that_is_refused_says_what_to_do(case: Case) -> None:
    with case.arranged() as pool:
        error = refused(pool, case.token)
        assert error.error_code == error.body["code"].lower()
        assert error.retryable == (case.status >= 429)
        assert isinstance(error.retry_after, int) == (case.name == "all keys revoked")


# Voice agents


def asked(pool: Live, path: str, scheme: str = "") -> httpx.Response:
    """Ask the pool for a temporary token."""
    trust = ssl.create_default_context(cafile=str(pool.served.ca))
    return httpx.get(pool.url + path, headers={"authorization": scheme + pool.token}, verify=trust).raise_for_status()


def say(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def until(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """Read up to the first message of a kind."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["type"] != kind:
        messages.append(json.loads(socket.recv(timeout=5)))
    return messages


def talk(socket: ClientConnection) -> None:
    """Say something to an agent, have its answer, and end the session."""
    say(socket, "session.update", session={"system_prompt": "Be brief.", "greeting": "Hello."})
    assert [message["type"] for message in until(socket, "reply.done")][:2] == ["session.ready", "reply.started"]
    audio = tone_wav(3, sample_rate=24_000)[44:]
    for start in range(0, len(audio), 4800):
        say(socket, "input.audio", audio=base64.b64encode(audio[start : start + 4800]).decode())
    heard = until(socket, "transcript.user")[-1]
    assert len(heard["text"].split()) == 6
    answered = until(socket, "reply.done")
    assert [message["type"] for message in answered].count("reply.audio") > 0
    say(socket, "session.end")
    figures = until(socket, "session.ended")[-1]
    assert figures["audio_duration_seconds"] == 3
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=5)
    assert closed.value.rcvd.code == 1000


def test_a_voice_agent(pool) -> None:
    """A client that documents ``Bearer``; upstream gets a key the same way."""
    with dialed(pool, "/v1/ws", "Bearer ") as socket:
        talk(socket)
    (session,) = pool.sim.sessions
    assert (session.service, session.state, session.audio_seconds) == ("agents", "terminated", 3)
    assert session.key in (KEY_A, KEY_B)


@pytest.mark.parametrize("settings", [{}, OWN_TOKENS], ids=["of AssemblyAI", "of the pool"])
def test_a_voice_agent_with_a_temporary_token(settings) -> None:
    with live(**settings) as pool:
        made = asked(pool, "/v1/token?expires_in_seconds=60", "Bearer ").json()["token"]
        trust = ssl.create_default_context(cafile=str(pool.served.ca))
        with connect(f"wss://{pool.api_host}/v1/ws?token={made}", ssl=trust, proxy=None) as socket:
            talk(socket)
        assert pool.sim.sessions[0].state == "terminated"


def test_an_agent_whose_user_hangs_up_does_not_cost_on(pool) -> None:
    """Without ``session.end`` AssemblyAI would go on, and bill, for half a minute."""
    with dialed(pool, "/v1/ws", "Bearer ") as socket:
        say(socket, "session.update", session={})
        until(socket, "session.ready")
    pool.rest()
    assert pool.sim.sessions[0].state == "terminated"


def test_a_token_for_one_service_opens_no_other() -> None:
    with live(**OWN_TOKENS) as pool:
        made = asked(pool, "/v1/token?expires_in_seconds=60", "Bearer ").json()["token"]
        error = refused(pool, "", token=made)
        assert str(error) == "The temporary token was made for the sessions of another service."
