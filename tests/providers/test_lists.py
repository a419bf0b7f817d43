"""Lists: parameters out of their range, other teams' traces in filtered lists, and how often upstream is asked."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from faults.rig import keys_of
from harness import run
from stages.scripted import Script, answer

from keypool_asgi.core.resources import Ref, Resource
from keypool_asgi.errors import BadRequest
from keypool_asgi.providers.assemblyai.lists import filter_lists, parse
from keypool_asgi.stores.resources import MemoryResources

BAD = [
    "limit=" + "9" * 5000,
    "limit=0",
    "limit=201",
    "limit=-1",
    "limit=1e2",
    "limit=%D9%A1",
    "limit=%B2",
    "limit=x",
    "created_on=9999-12-31",
    "created_on=garbage",
    "created_on=2026-13-01",
    "created_on=0000-01-01",
    "created_on=" + "1" * 5000,
    "created_on=2026-01-01%00",
    "status=done",
    "before_id=a&after_id=b",
]


@pytest.mark.parametrize("query", BAD)
def test_a_parameter_out_of_its_range_is_refused(query: str) -> None:
    with pytest.raises(BadRequest):
        parse(query.encode())


@pytest.mark.parametrize("query", BAD)
def test_and_the_caller_reads_a_400(query: str) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200))
        script.pool()
        caller = await script.ask("GET", f"/v2/transcript?{query}")
        assert (caller.status, caller.json["code"]) == (400, "BAD_REQUEST")
        assert script.requests == []
        await script.app.aclose()

    run(main())


def test_the_edges_of_the_ranges_are_taken() -> None:
    assert parse(b"limit=1").limit == 1
    assert parse(b"limit=200&created_on=9999-12-30").limit == 200
    assert parse(b"created_on=0001-01-01").since is not None


# Filtered

THEIRS = {"id": "theirs", "name": "secret project"}


def test_filtered_lists_show_nothing_but_own_items() -> None:
    page = {
        "agents": [{"id": "own", "tools": [{"name": "t"}]}, THEIRS, "theirs", None, [THEIRS]],
        "total": 2,
        "has_more": True,
        "next_cursor": "theirs",
        "page_details": {"total": 7, "agents": [THEIRS]},
        "others": [THEIRS],
        "nested": [[THEIRS]],
    }
    found = json.loads(filter_lists([page, {"agents": [THEIRS], "error": "theirs"}], frozenset({"own"})))
    assert found == {"agents": [{"id": "own", "tools": [{"name": "t"}]}], "others": [], "nested": []}


def test_an_item_whose_id_is_no_text_is_nobodys() -> None:
    found = filter_lists(
        [{"agents": [{"id": ["own"]}, {"id": {"own": 1}}, {"id": None}, {"id": 1}]}], frozenset({"own"})
    )
    assert json.loads(found) == {"agents": []}


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/agents", "agents"), ("/v1/webhook-subscriptions", "webhook_subscriptions")]
)
def test_counts_and_cursors_of_others_do_not_reach_a_team(path: str, name: str) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200, {name: [THEIRS], "total": 1, "next": "theirs", "more": {"x": [THEIRS]}}))
        script.pool()
        caller = await script.ask("GET", path)
        assert (caller.status, caller.json) == (200, {name: []})
        await script.app.aclose()

    run(main())


# How often upstream is asked

UNFINISHED = 2000
PROJECTS = ("k1", "k2")


async def stocked() -> MemoryResources:
    resources = MemoryResources()
    for number in range(UNFINISHED):
        project = f"project-{PROJECTS[number % 2]}"
        ref = Ref("transcript", f"t{number}")
        await resources.record(Resource(ref, "team-a", project, 1_800_000_000.0 + number, "processing"))
    return resources


def upstream(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v2/transcript":
        return answer(200, {"transcripts": [{"id": "t1999", "status": "completed"}]})
    return answer(200, {"id": request.url.path.rpartition("/")[2], "status": "processing"})


@pytest.mark.parametrize("query", ["limit=200", "limit=200&status=completed", "limit=1&status=error"])
def test_a_page_of_unfinished_items_costs_upstream_a_bounded_number_of_requests(query: str) -> None:
    async def main() -> None:
        script = Script(upstream)
        # The account would ask about those that have ended meanwhile, at a pace of its own.
        script.pool(resources=await stocked(), keys=keys_of(*PROJECTS), reconcile_seconds=None)
        caller = await script.ask("GET", f"/v2/transcript?{query}")
        assert caller.status == 200
        batches = [request for request in script.requests if request.url.path == "/v2/transcript"]
        assert len(batches) <= len(PROJECTS), "the newest items of a project are asked for once in a request"
        assert len(script.requests) - len(batches) <= 50
        await script.app.aclose()

    run(main())


def test_items_that_could_not_be_asked_about_stay_in_the_list() -> None:
    async def main() -> None:
        script = Script(upstream)
        script.pool(resources=await stocked(), keys=keys_of(*PROJECTS))
        listed: dict[str, Any] = (await script.ask("GET", "/v2/transcript?limit=200")).json
        assert [item["id"] for item in listed["transcripts"]] == [f"t{n}" for n in range(1999, 1799, -1)]
        assert [item["status"] for item in listed["transcripts"]] == ["completed"] + ["processing"] * 199
        assert listed["page_details"]["prev_url"]
        await script.app.aclose()

    run(main())


@pytest.mark.parametrize("name", ["content-encoding", "Content-Encoding"])
def test_a_list_that_is_compressed_unasked_is_read_all_the_same(name: str) -> None:
    async def main() -> None:
        body = gzip.compress(json.dumps({"agents": [{"id": "own"}, THEIRS]}).encode())
        script = Script(lambda _: answer(200, body, (name, "gzip")))
        resources = MemoryResources()
        await resources.record(Resource(Ref("agent", "own"), "team-a", "project-k1", 1.0))
        script.pool(resources=resources)
        caller = await script.ask("GET", "/v1/agents")
        assert (caller.status, caller.json) == (200, {"agents": [{"id": "own"}]})
        await script.app.aclose()

    run(main())
