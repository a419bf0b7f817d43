"""Host matrix: the same workflow, over real sockets, in every host that a user may put the pool into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from harness import HOSTS, SERVERS, Hosted, Served, serve
from matrix.callers import TOKEN, client_of, is_ours, settings_of, simulated

from keypool_asgi.testing import Simulator

REFERENCE = "uvicorn-httptools"
OTHERS = [server for server in SERVERS if server != REFERENCE]
ROOT = "/api"
JSON_LOOKING = b'{"audio_url": "http://not.looked.at/", "n": [1, 2'
NOBODYS = "/v2/transcript/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated().running() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: Simulator) -> Iterator[Simulator]:
    shared.forget()
    yield shared
    assert shared.open_requests == 0
    assert shared.violations == []


@dataclass
class World:
    hosted: Hosted
    served: Served
    records: list[Any]
    client: httpx.Client
    outside: httpx.Client


def world_of(shared: Simulator, host: str, server: str, **serving: str) -> Iterator[World]:
    """A host on a server. Callers see it below the root path, if it has one: uvicorn has a proxy strip that."""
    records: list[Any] = []
    hosted = HOSTS[host](**settings_of(shared, on_exchange=records.append))
    serving = hosted.serving | serving
    strips = serving["root_path"] if server.startswith("uvicorn") else ""
    with serve(hosted.app, server, **serving) as served:
        seen = f"{served.scheme}://{served.host}{serving['root_path']}"
        with (
            client_of(seen + hosted.base, strips=strips) as client,
            client_of(seen, strips=strips, team=None) as outside,
        ):
            yield World(hosted, served, records, client, outside)


# One server, everything


@pytest.fixture(scope="module", params=HOSTS)
def world(shared: Simulator, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from world_of(shared, request.param, REFERENCE)


@pytest.fixture
def client(world: World, simulator: Simulator) -> httpx.Client:
    return world.client


def test_an_upload_that_looks_like_json_passes_as_it_is(client: httpx.Client, simulator: Simulator) -> None:
    answer = client.post("/v2/upload", content=JSON_LOOKING, headers={"content-type": "application/octet-stream"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"upload_url"}
    assert simulator.requests[-1].body == JSON_LOOKING
    assert simulator.requests[-1].header("content-type") == "application/octet-stream"
    assert simulator.requests[-1].header("content-length") == str(len(JSON_LOOKING))


def test_an_upload_in_chunks_passes_in_chunks(client: httpx.Client, simulator: Simulator) -> None:
    pieces = [bytes([number]) * 50_000 for number in range(10)]
    assert client.post("/v2/upload", content=iter(pieces)).status_code == 200
    assert simulator.requests[-1].header("transfer-encoding") == "chunked"
    assert simulator.requests[-1].body_size == 500_000
    assert simulator.requests[-1].body == b"".join(pieces)[:65_536]


def test_a_transcript_from_its_upload_to_its_end(client: httpx.Client) -> None:
    finished = workflow(client)
    url = f"/v2/transcript/{finished['id']}"
    assert client.get(f"{url}/sentences").json()["sentences"]
    assert client.get(f"{url}/word-search", params={"words": finished["words"][0]["text"].strip(".,")}).json()[
        "total_count"
    ]
    subtitles = client.get(f"{url}/srt", params={"chars_per_caption": 32})
    assert subtitles.text.startswith("1\n00:00:00")
    assert subtitles.headers["content-type"].startswith("text/")
    assert client.head(url).status_code == 200
    assert client.delete(url).status_code == 200
    for path in (url, f"{url}/sentences"):
        assert (client.get(path).status_code, is_ours(client.get(path))) == (404, True)
    assert client.get(url).json()["error"] == client.get(NOBODYS).json()["error"]


def test_the_links_of_a_list_lead_back(client: httpx.Client) -> None:
    created = [workflow(client)["id"] for _ in range(2)]
    follow_links(client, created)


def test_a_second_slash_is_forgiven(client: httpx.Client, simulator: Simulator) -> None:
    """The Node SDK makes one of a base URL that ends in a slash."""
    answer = client.get(f"{str(client.base_url).rstrip('/')}//v3/token?expires_in_seconds=60")
    assert set(answer.json()) == {"token", "expires_in_seconds"}
    assert simulator.requests[-1].target == "/streaming/v3/token?expires_in_seconds=60"


@pytest.mark.parametrize("token", [None, "unknown", f"{TOKEN}x"])
def test_nobody_gets_in_without_a_token(client: httpx.Client, simulator: Simulator, token: str | None) -> None:
    client.headers.pop("authorization")
    fields = {"authorization": token} if token else {}
    try:
        for answer in (
            client.get("/v2/transcript", headers=fields),
            client.post("/v2/upload", content=b"x", headers=fields),
        ):
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/json"
    finally:
        client.headers["authorization"] = TOKEN
    assert simulator.requests == []


@pytest.mark.parametrize(
    "path", ["/v2/nothing", "/v2/transcript/a/b/c", "/v2/transcript/a%2Fb", "/", "/v2/../v2/upload"]
)
def test_an_unknown_path_below_the_pool_is_refused(client: httpx.Client, simulator: Simulator, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert simulator.requests == []


def test_what_is_retired_says_so(client: httpx.Client) -> None:
    answer = client.post("/lemur/v3/generate/task", json={})
    assert (answer.status_code, answer.json()["code"]) == (410, "GONE")


def test_the_hosts_own_routes_answer(world: World, simulator: Simulator) -> None:
    assert world.outside.get("/hello").json() == {"hello": "host"}
    answer = world.outside.get("/nothing")
    assert (answer.status_code, is_ours(answer)) == (404, False)
    assert simulator.requests == []


@pytest.mark.parametrize("more", ["X", "X/v2/transcript", ".json", "-x/v2/upload"])
def test_a_path_that_only_begins_like_the_pools_is_the_hosts(
    world: World, simulator: Simulator, request: pytest.FixtureRequest, more: str
) -> None:
    seen = len(world.records)
    answer = world.outside.get(f"{world.hosted.base}{more}", headers={"authorization": TOKEN})
    assert answer.status_code == 404
    # Litestar matches mounts by their first characters, not by segment, and hands even this to the pool.
    assert is_ours(answer) == ("litestar-mounted" in request.node.name)
    assert (simulator.requests, len(world.records)) == ([], seen)


@pytest.mark.parametrize("host", HOSTS)
def test_the_hosts_own_lifespan_runs(shared: Simulator, host: str) -> None:
    has_none = host.startswith("django")
    for world in world_of(shared, host, REFERENCE):
        assert world.hosted.events == ([] if has_none else ["startup"])
        assert world.client.get("/v1/models").status_code == 200
    assert world.hosted.events == ([] if has_none else ["startup", "shutdown"])


def test_a_host_can_be_started_again(shared: Simulator) -> None:
    """Test clients of the frameworks start one app object again and again."""
    hosted = HOSTS["bare-wrapped"](**settings_of(shared))
    for _ in range(2):
        with serve(hosted.app, REFERENCE, **hosted.serving) as served, client_of(served.url + hosted.base) as client:
            assert client.get("/v1/models").status_code == 200
    assert hosted.events == ["startup", "shutdown"] * 2


# The other servers, the essence


@pytest.mark.parametrize("server", OTHERS)
@pytest.mark.parametrize("host", HOSTS)
def test_every_host_on_every_server(shared: Simulator, simulator: Simulator, host: str, server: str) -> None:
    for world in world_of(shared, host, server):
        essence(world)
    assert world.hosted.events == ([] if host.startswith("django") else ["startup", "shutdown"])


# Root paths

STRIPPED = [(host, server) for host in HOSTS for server in ("hypercorn", "granian") if host != "starlette-nested-mount"]


@pytest.mark.parametrize("server", [REFERENCE, "hypercorn"])
@pytest.mark.parametrize("host", HOSTS)
def test_every_host_below_a_root_path(shared: Simulator, simulator: Simulator, host: str, server: str) -> None:
    """What is asked gets the root path put before it by uvicorn; hypercorn and granian want it to be asked."""
    for world in world_of(shared, host, server, root_path=ROOT):
        essence(world)
        assert str(world.client.base_url).endswith(f"{ROOT}{world.hosted.base}/")


@pytest.mark.parametrize(("host", "server"), STRIPPED)
def test_every_host_behind_a_proxy_that_strips_what_the_server_expects(
    shared: Simulator, simulator: Simulator, host: str, server: str
) -> None:
    """Path and root path do not fit together then, and Starlette does not find its own nested mounts."""
    hosted = HOSTS[host](**settings_of(shared))
    with serve(hosted.app, server, lifespan=hosted.lifespan, root_path=ROOT) as served:
        seen = f"{served.scheme}://{served.host}{ROOT}{hosted.base}"
        with client_of(seen, strips=ROOT) as client:
            created = [workflow(client)["id"] for _ in range(2)]
            follow_links(client, created)


# What callers do


def essence(world: World) -> None:
    client = world.client
    assert world.outside.get("/hello").json() == {"hello": "host"}
    assert client.post("/v2/upload", content=iter([b"a" * 70_000, b"b"])).status_code == 200
    created = [workflow(client)["id"] for _ in range(2)]
    follow_links(client, created)
    assert client.delete(f"/v2/transcript/{created[0]}").status_code == 200
    assert client.get(f"/v2/transcript/{created[0]}").json()["code"] == "NOT_FOUND"
    assert client.get(f"{str(client.base_url).rstrip('/')}//v3/token?expires_in_seconds=60").json()["token"]
    assert client.get("/v2/nothing").json()["code"] == "NOT_FOUND"
    nobody = world.outside.get(f"{world.hosted.base}/v2/transcript")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "UNAUTHORIZED")
    assert world.outside.get(f"{world.hosted.base}X").status_code == 404
    assert {record.complete for record in world.records} == {True}


def workflow(client: httpx.Client) -> dict[str, Any]:
    """Upload, transcribe and poll; returns the finished transcript."""
    upload = client.post("/v2/upload", content=b"RIFF" + bytes(9_996)).json()
    job = client.post("/v2/transcript", json={"audio_url": upload["upload_url"]}).json()
    polled = client.get(f"/v2/transcript/{job['id']}")
    assert polled.status_code == 200
    finished: dict[str, Any] = polled.json()
    assert (finished["id"], finished["status"]) == (job["id"], "completed")
    return finished


def follow_links(client: httpx.Client, created: list[str]) -> None:
    """Walk along the list by its own links, which must lead to where the caller came in."""
    base = str(client.base_url).rstrip("/")
    page = client.get("/v2/transcript", params={"limit": 1}).json()
    listed = []
    for _ in created:
        details, (item,) = page["page_details"], page["transcripts"]
        listed.append(item["id"])
        assert details["current_url"].startswith(f"{base}/v2/transcript?")
        assert item["resource_url"] == f"{base}/v2/transcript/{item['id']}"
        assert client.get(item["resource_url"]).json()["id"] == item["id"]
        if item["id"] != created[0]:
            answer = client.get(details["prev_url"])
            assert answer.status_code == 200, answer.text
            page = json.loads(answer.content)
    assert listed == created[::-1]
    assert client.get(page["page_details"]["next_url"]).json()["transcripts"][0]["id"] == created[1]
