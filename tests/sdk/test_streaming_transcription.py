"""Live transcription with the official SDKs through the pool, over TLS: nothing is changed but the host and the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from keypool_asgi.testing import Session, Simulator, tone_wav

from .gateway import KEY_A, KEY_B
from .streaming_callers import AUDIO, CALLERS, Heard, Wish, async_python, chunks, minted, node, python, python_at
from .streaming_pool import OWN_TOKENS, Live, live

# The SDK's own affair: it calls pydantic and websockets by old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

each_caller = pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
TERMS = {"expires_in_seconds": 60, "max_session_duration_seconds": 120}
SENT = ["UpdateConfiguration", "ForceEndpoint", "KeepAlive", "Terminate"]


@pytest.fixture
def pool() -> Iterator[Live]:
    with live() as pool:
        yield pool


@pytest.fixture(scope="module")
def direct() -> tuple[Heard, Session]:
    """The same session without a pool: what AssemblyAI says, and what it gets."""
    with Simulator().running() as sim:
        heard = python_at(sim.socket_origins["streaming"], Wish(sim.key))
        return heard, sim.sessions[0]


def comparable(heard: Heard) -> list[dict[str, Any]]:
    """Messages without what is never the same twice."""
    changing = ("id", "expires_at", "session_duration_seconds")
    return [{name: each for name, each in message.items() if name not in changing} for message in heard.messages]


def audio_of(session: Session) -> list[bytes]:
    return [data for kind, data in session.messages if kind == "binary"]


@each_caller
def test_a_recording_is_transcribed(pool, direct, caller) -> None:
    """Begin, Turns and Termination; and upstream gets every chunk as it was sent."""
    heard = caller(pool, Wish(pool.token))
    assert heard.errors == []
    assert {"Begin", "Turn", "Termination"} <= heard.kinds
    expected, alone = direct
    assert heard.said == expected.said
    assert len(heard.said) == 2
    (session,) = pool.sim.sessions
    assert (session.state, session.audio_seconds, session.token) == ("terminated", 3, None)
    assert session.key in (KEY_A, KEY_B)
    assert json.loads(session.query["keyterms_prompt"]) == ["a", "b"]
    assert audio_of(session) == audio_of(alone) == chunks(AUDIO)
    assert [json.loads(data)["type"] for kind, data in session.messages if kind == "text"] == SENT


@pytest.mark.parametrize("caller", [python, async_python])
def test_python_sees_no_difference(pool, direct, caller) -> None:
    """Every message, both ways, is the one that there is without a pool."""
    heard = caller(pool, Wish(pool.token))
    expected, alone = direct
    assert comparable(heard) == comparable(expected)
    (session,) = pool.sim.sessions
    assert (session.messages, session.query) == (alone.messages, alone.query)


@pytest.mark.parametrize("caller", [python, node])
def test_audio_in_real_time_is_passed_on_in_real_time(pool, caller) -> None:
    """AssemblyAI ends sessions whose audio runs ahead of the clock: nothing may be held back and sent at once."""
    pool.sim.settings.audio_ahead = 0.5
    heard = caller(pool, Wish(pool.token, audio=tone_wav(1.5)[44:], pace=0.1))
    assert heard.errors == []
    assert pool.sim.sessions[0].state == "terminated"


@each_caller
@pytest.mark.parametrize("settings", [{}, OWN_TOKENS], ids=["of AssemblyAI", "of the pool"])
def test_a_temporary_token_opens_a_session(direct, caller, settings) -> None:
    """The SDK's own helper makes it through the pool; either kind opens the pool's endpoint, on the same key."""
    with live(**settings) as pool:
        heard = caller(pool, Wish(pool.token, mint=TERMS))
        assert heard.errors == []
        assert heard.said == direct[0].said
        (session,) = pool.sim.sessions
        assert (session.state, session.token) == ("terminated", None)
        assert "token" not in session.query
        made = [token.key.secret for token in pool.sim.tokens]
        assert made == ([] if settings else [session.key])
        assert {record.team for record in pool.records} == {"sdk-users"}


def test_a_token_of_assemblyai_opens_assemblyai_itself(pool, direct) -> None:
    """As Node does whose user has set ``streamingBaseUrl`` alone."""
    token = minted(pool.api_host, pool.token, TERMS)
    upstream = pool.sim.socket_origins["streaming"]
    assert python_at(upstream, Wish(token, temporary=True)).said == direct[0].said
    with connect(f"{upstream}/v3/ws?token={token}", proxy=None) as socket:
        assert json.loads(socket.recv())["type"] == "Begin"
        socket.send('{"type":"Terminate"}')
        assert [json.loads(message)["type"] for message in socket] == ["Termination"]
    assert [(each.state, each.token) for each in pool.sim.sessions] == [("terminated", token)] * 2
    assert [each.expires - each.opened for each in pool.sim.sessions] == pytest.approx([120, 120])


def test_a_token_of_the_pool_opens_nothing_else() -> None:
    with live(**OWN_TOKENS) as pool:
        token = minted(pool.api_host, pool.token, TERMS)
        heard = python_at(pool.sim.socket_origins["streaming"], Wish(token, temporary=True))
        assert heard.errors == [("Unauthorized Connection: Invalid API key", 1008)]
