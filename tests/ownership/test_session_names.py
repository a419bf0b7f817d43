"""What the messages and the query of a session name: agents, sessions to resume, voices (invariant I3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from harness import Served, secret, serve, token
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from keypool_asgi import KeyPool, Team, UpstreamKey
from keypool_asgi.testing import Simulator

PLACES = {"a": "acme/alpha", "b": "acme/beta"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
LIBRARY_VOICE = "987db62e-a2c2-569a-9c4d-82460cdea1bd"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator({secret(name): place for name, place in PLACES.items()}).running() as simulator:
        yield simulator


@pytest.fixture
def served(simulator: Simulator) -> Iterator[Served]:
    """Two projects of one account, and two teams."""
    keys = [UpstreamKey(name, secret(name), project=name, account="acme") for name in PLACES]
    pool = KeyPool(keys=keys, teams={token(team): Team(team) for team in ("red", "blue")}, origins=simulator.origins)
    with serve(pool) as served:
        yield served
    assert simulator.foreign_requests == []
    assert simulator.violations == []
    simulator.wait_until(lambda sim: not sim.open_sessions)


def opened(served: Served, team: str, query: str = "") -> ClientConnection:
    url = served.url.replace("http", "ws") + "/v1/assemblyai/v1/ws" + query
    return connect(url, additional_headers={"authorization": f"Bearer {token(team)}"})


def agent_of(served: Served, team: str) -> str:
    made = httpx.post(
        f"{served.url}/v1/assemblyai/v1/agents", json={"name": "Ada"}, headers={"authorization": token(team)}
    )
    return str(made.json()["id"])


def update(agent: str | None) -> str:
    return json.dumps({"type": "session.update", "session": {} if agent is None else {"agent_id": agent}})


def answer_to(served: Served, team: str, message: str) -> dict[str, Any]:
    """The first message that answers, or the close code and reason; closing figures are no answer."""
    with opened(served, team) as socket, suppress(ConnectionClosed):
        socket.send(message)
        while (found := json.loads(socket.recv(5)))["type"] == "session.ended":
            pass
        return dict(found)
    return {"code": socket.close_code, "reason": socket.close_reason}


def test_a_team_talks_to_its_own_agent_on_the_project_that_has_it(served: Served, simulator: Simulator) -> None:
    for _ in range(4):  # whichever key made it
        agent = agent_of(served, "red")
        assert answer_to(served, "red", update(agent))["type"] == "session.ready"


def test_an_agent_of_another_team_is_as_unknown_as_one_that_does_not_exist(
    served: Served, simulator: Simulator
) -> None:
    foreign = answer_to(served, "blue", update(agent_of(served, "red")))
    nobodys = answer_to(served, "blue", update(UNKNOWN))
    assert foreign == nobodys
    assert foreign["code"] == 4001
    assert "not this team's" in foreign["reason"]


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "session.update", "session": {"AGENT_ID": "%s"}}',
        '{"type": "session.update", "session": {"agent\\u005fid": "%s"}}',
        '{"session": {"deep": [{"agent_id": ["%s"]}]}, "type": "session.update"}',
    ],
)
def test_a_disguised_name_is_a_name(served: Served, message: str) -> None:
    assert answer_to(served, "blue", message % agent_of(served, "red"))["code"] == 4001


def test_a_binary_message_names_too(served: Served) -> None:
    with opened(served, "blue") as socket:
        socket.send(update(agent_of(served, "red")).encode())
        with suppress(ConnectionClosed):
            while json.loads(socket.recv(5))["type"] == "session.ended":
                pass
    assert socket.close_code == 4001


def test_a_transcript_that_a_stream_is_to_talk_about_must_be_the_teams(served: Served) -> None:
    base, headers = f"{served.url}/v1/assemblyai", {"authorization": token("red")}
    job = {"audio_url": "https://example.com/meeting.mp3"}
    transcript = httpx.post(f"{base}/v2/transcript", json=job, headers=headers).json()["id"]
    query = urlencode({"sample_rate": 16000, "llm_gateway": json.dumps({"model": "m", "transcript_id": transcript})})
    url = f"{base.replace('http', 'ws')}/v3/ws?{query}"
    with connect(url, additional_headers=headers) as socket:
        assert json.loads(socket.recv(5))["type"] == "Begin"
    with pytest.raises(InvalidStatus) as caught:
        connect(url, additional_headers={"authorization": token("blue")})
    assert caught.value.response.status_code == 404


def test_a_session_without_an_agent_needs_none(served: Served) -> None:
    assert answer_to(served, "red", update(None))["type"] == "session.ready"


def test_only_the_team_that_had_a_session_may_resume_it(served: Served) -> None:
    with opened(served, "red") as socket:
        socket.send(update(None))
        session = json.loads(socket.recv(5))["session_id"]
        resume = json.dumps({"type": "session.resume", "session_id": session})

        assert answer_to(served, "blue", resume)["code"] == 4001
        # Its own team's request reaches AssemblyAI, which has an answer of its own: the session is not dropped.
        assert answer_to(served, "red", resume).get("code") != 4001


def test_a_session_moves_to_the_project_of_the_agent_that_its_first_message_names(
    served: Served, simulator: Simulator
) -> None:
    agents = {agent_of(served, "red") for _ in range(8)}
    assert {answer_to(served, "red", update(agent))["type"] for agent in agents} == {"session.ready"}
    assert {session.project for session in simulator.sessions if session.begun} == {"alpha", "beta"}


def test_a_session_that_is_going_on_does_not_move(served: Served) -> None:
    mine = {agent_of(served, "red") for _ in range(8)}
    with opened(served, "red") as socket:
        socket.send(update(None))
        assert json.loads(socket.recv(5))["type"] == "session.ready"
        with suppress(ConnectionClosed):
            for agent in mine:
                socket.send(update(agent))
            while True:
                socket.recv(5)
    assert "in the first message" in (socket.close_reason or "")


def test_a_cloned_voice_of_nobody_is_refused(served: Served) -> None:
    with pytest.raises(InvalidStatus) as caught:
        opened(served, "red", f"?voice_id={UNKNOWN}")
    assert caught.value.response.status_code == 404


@pytest.mark.parametrize("voice", ["aai-jane", LIBRARY_VOICE])
def test_a_library_voice_is_everybodys(served: Served, voice: str) -> None:
    with opened(served, "red", f"?voice_id={voice}") as socket:
        assert json.loads(socket.recv(5))["type"] == "Begin"
