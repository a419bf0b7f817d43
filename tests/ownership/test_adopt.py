"""A pool can be put in front of an account that is in use: its transcripts become a team's."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from harness import run, secret, token

from keypool_asgi import KeyPool, Team, UpstreamKey
from keypool_asgi.cli import main
from keypool_asgi.errors import NoAvailableKeys
from keypool_asgi.testing import Simulator

COUNT = 450  # more than two pages of upstream's


@pytest.fixture
def in_use(simulator: Simulator) -> list[str]:
    """Transcripts that a project has made before there was a pool, oldest first."""
    with httpx.Client(base_url=simulator.url, headers={"authorization": secret("p2")}) as direct:
        body = {"audio_url": "https://example.com/a.mp3"}
        return [direct.post("/v2/transcript", json=body).json()["id"] for _ in range(COUNT)]


def test_the_command_adopts_and_the_team_sees_it_all(
    simulator: Simulator,
    in_use: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = f"sqlite:///{tmp_path / 'owners.db'}"
    monkeypatch.setenv("PROJECT_KEY", secret("p2"))
    arguments = ["adopt", "--team", "red", "--project", "p2", "--state", state, "--key-env", "PROJECT_KEY"]
    arguments += ["--api", simulator.url, "--json"]
    for _ in range(2):  # it may be repeated
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == {"team": "red", "project": "p2", "transcripts": COUNT}
        assert "200 transcripts so far" in printed.err

    async def listed() -> list[str]:
        pool = KeyPool(
            keys=[UpstreamKey("k", secret("p2"), project="p2")],
            teams={token("red"): Team("red"), token("green"): Team("green")},
            origins=simulator.origins,
            state=state,
        )
        transport = httpx.ASGITransport(app=pool)
        async with httpx.AsyncClient(transport=transport, base_url="http://pool/v1/assemblyai") as client:
            client.headers["authorization"] = token("red")
            seen: list[str] = []
            url = "/v2/transcript?limit=200"
            while url:
                page = (await client.get(url)).json()
                seen += [item["id"] for item in page["transcripts"]]
                url = page["page_details"]["prev_url"]
            assert (await client.get(f"/v2/transcript/{seen[0]}")).status_code == 200
            client.headers["authorization"] = token("green")
            assert (await client.get(f"/v2/transcript/{seen[0]}")).status_code == 404
        await pool.aclose()
        return seen

    assert run(listed()) == in_use[::-1]


def test_a_missing_key_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSEMBLYAI_API_KEY", raising=False)
    assert main(["adopt", "--team", "t", "--project", "p", "--state", "sqlite:///x.db"]) == 1
    assert "ASSEMBLYAI_API_KEY is not set" in capsys.readouterr().err


def test_a_project_without_a_key_cannot_be_adopted(simulator: Simulator) -> None:
    async def attempt() -> None:
        pool = KeyPool(keys=[UpstreamKey("k", secret("p1"), project="p1")], teams={}, origins=simulator.origins)
        with pytest.raises(NoAvailableKeys):
            await pool.adopt("red", "p2")
        await pool.aclose()

    run(attempt())
