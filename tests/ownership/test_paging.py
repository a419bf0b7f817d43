"""Paging through a thousand transcripts of five teams over three projects, with the official SDKs' own paging."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import assemblyai as aai
import httpx
import pytest
from harness import need, run, token
from ownership.pools import TEAMS, Gateway

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

EACH = 200
NODE = Path(__file__).parents[1] / "sdk" / "node"


@pytest.fixture
def made(gateway: Gateway) -> dict[str, list[str]]:
    """Make a thousand transcripts, all teams at once; return each team's ids, oldest first."""
    ids: dict[str, list[str]] = {team: [] for team in TEAMS}

    async def make(team: str) -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            client.headers["authorization"] = token(team)
            for _ in range(EACH):
                answer = await client.post("/v2/transcript", json={"audio_url": "https://example.com/talk.mp3"})
                ids[team].append(answer.json()["id"])

    async def make_all() -> None:
        await asyncio.gather(*(make(team) for team in TEAMS))

    run(make_all(), within=300)
    assert {transcript.key.project.name for transcript in gateway.simulator.transcripts} == {"p1", "p2", "p3"}
    return ids


def python_pages(url: str, team: str, limit: int) -> Iterator[list[str]]:
    client = aai.Client(settings=aai.Settings(base_url=url, api_key=token(team)))
    transcriber = aai.Transcriber(client=client)
    parameters = aai.ListTranscriptParameters(limit=limit)
    with client.http_client:
        while True:
            page = transcriber.list_transcripts(parameters)
            yield [item.id for item in page.transcripts]
            if page.page_details.before_id_of_prev_url is None:
                return
            parameters.before_id = page.page_details.before_id_of_prev_url


def node_pages(url: str, team: str, limit: int) -> list[list[str]]:
    script = f"""
        import {{ AssemblyAI }} from "assemblyai";
        const client = new AssemblyAI({{ baseUrl: {json.dumps(url)}, apiKey: {json.dumps(token(team))} }});
        const pages = [];
        let page = await client.transcripts.list({{ limit: {limit} }});
        while (true) {{
            pages.push(page.transcripts.map((item) => item.id));
            if (!page.page_details.prev_url) break;
            page = await client.transcripts.list(page.page_details.prev_url);
        }}
        console.log(JSON.stringify(pages));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], cwd=NODE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The account would ask once more for what each job has used, at a pace of its own.
@pytest.mark.parametrize("gateway", [{"reconcile_seconds": None}], indirect=True)
def test_each_team_pages_through_exactly_its_own(gateway: Gateway, made: dict[str, list[str]]) -> None:
    need("node", "npm:assemblyai")
    for team in TEAMS:
        pages = list(python_pages(gateway.url, team, 50))
        assert [name for page in pages for name in page] == made[team][::-1]
        assert [len(page) for page in pages] == [50] * 4
    for team in TEAMS[:2]:
        assert [name for page in node_pages(gateway.url, team, 70) for name in page] == made[team][::-1]
    finished_once(gateway)


def finished_once(gateway: Gateway) -> None:
    """A finished item is never asked about again: a second look at every page costs upstream nothing."""
    gateway.simulator.forget()
    list(python_pages(gateway.url, TEAMS[0], 200))
    asked = {request.path for request in gateway.simulator.requests}
    assert asked <= {"/v2/transcript"}


def test_the_parameters_mean_what_they_mean_upstream(gateway: Gateway) -> None:
    with gateway.client("red") as red:
        ids = [
            red.post("/v2/transcript", json={"audio_url": f"https://example.com/{name}"}).json()["id"]
            for name in ("a", "b", "fail", "c", "d", "fail", "e")
        ]

        def listed(query: str) -> list[int]:
            return [ids.index(item["id"]) for item in red.get(f"/v2/transcript?{query}").json()["transcripts"]]

        for name in ids:
            red.get(f"/v2/transcript/{name}")
        assert listed("limit=3") == [6, 5, 4]
        assert listed(f"limit=2&before_id={ids[4]}") == [3, 2]
        assert listed(f"limit=2&after_id={ids[1]}") == [3, 2]
        assert listed("status=error") == [5, 2]
        assert listed(f"status=completed&limit=2&before_id={ids[4]}") == [3, 1]
        assert listed("created_on=2001-01-01") == []
        assert red.get("/v2/transcript?limit=201").status_code == 400
        assert red.get("/v2/transcript?status=done").status_code == 400
        assert red.get("/v2/transcript?created_on=yesterday").status_code == 400
        assert red.get("/v2/transcript?before_id=nobody").status_code == 404


def test_paging_goes_on_over_what_has_just_been_deleted(gateway: Gateway) -> None:
    """A clean-up deletes a page and follows its link: the place of a deleted item is still known."""
    with gateway.client("red") as red:
        for name in range(5):
            red.post("/v2/transcript", json={"audio_url": f"https://example.com/{name}"})
        seen, url = [], "/v2/transcript?limit=2"
        while url:
            page = red.get(url).json()
            for item in page["transcripts"]:
                seen.append(item["id"])
                assert red.delete(f"/v2/transcript/{item['id']}").status_code == 200
            url = page["page_details"]["prev_url"]
        assert len(set(seen)) == len(seen) == 5
        assert red.get("/v2/transcript").json()["transcripts"] == []
