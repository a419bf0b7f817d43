"""Ways around ownership: bodies and URLs that hide a name, and answers that must not cost a team what it has."""

from __future__ import annotations

import codecs
import json
from typing import Any

import httpx
import pytest
from harness import run
from ownership.pools import Gateway
from stages.scripted import Script, answer

from keypool_asgi import Limit
from keypool_asgi.core.resources import Page, Ref, Resource
from keypool_asgi.stores.resources import MemoryResources
from keypool_asgi.testing import Fault, tone_wav

UNKNOWN = "00000000-0000-4000-8000-000000000000"
JSON = {"content-type": "application/json"}


def owned(gateway: Gateway) -> dict[str, str]:
    """Make one of each for the team red."""
    with gateway.client("red") as red:
        upload = red.post("/v2/upload", content=tone_wav(1)).json()["upload_url"]
        transcript = red.post("/v2/transcript", json={"audio_url": upload}).json()["id"]
        agent = red.post("/v1/agents", json={"name": "receptionist"}).json()["id"]
        hook = red.post("/v1/webhook-subscriptions", json={"url": "https://example.com", "agent_id": agent}).json()
    return {"upload": upload, "transcript": transcript, "agent": agent, "hook": hook["id"]}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5", "messages": [{"role": "user", "content": "Hi"}], **more}


# Names that hide in JSON

PATHS = {
    "/v2/transcript": ("audio_url", "upload"),
    "/v1/chat/completions": ("transcript_id", "transcript"),
    "/v1/understanding": ("transcript_id", "transcript"),
    "/v1/webhook-subscriptions": ("agent_id", "agent"),
    "/v1/speech": ("voice_id", "voice"),
}


def long_s(field: str) -> str:
    return field.replace("s", "\u017f")


SHAPES: dict[str, Any] = {
    "capitals": lambda f, i: {f.title(): i},
    "shouted": lambda f, i: {f.upper(): i},
    "long s": lambda f, i: {long_s(f): i},
    "nested": lambda f, i: {"speech_understanding": {"request": {f: i}}},
    "nested in lists": lambda f, i: {"a": [[{"b": {f: i}}]]},
    "in another case, nested": lambda f, i: {"a": {f.title(): i}},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_foreign_name_is_refused_in_every_shape(path: str, shape: str, ascii_only: bool) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200))
        script.pool()
        field, kind = PATHS[path]
        name = f"https://cdn.assemblyai.com/upload/{UNKNOWN}" if kind == "upload" else UNKNOWN
        body = json.dumps(SHAPES[shape](field, name), ensure_ascii=ascii_only).encode()
        caller = await script.ask("POST", path, body)
        assert (caller.status, caller.json["code"]) == (404, "NOT_FOUND")
        assert script.requests == []
        await script.app.aclose()

    run(main())


TWICE = [
    '{{"transcript_id": "{own}", "transcript_id": "{foreign}"}}',
    '{{"transcript_id": "{foreign}", "transcript_id": "{own}"}}',
    '{{"transcript_id": "{own}", "Transcript_ID": "{foreign}"}}',
    '{{"transcript_id": "{own}", "tran\u017fcript_id": "{foreign}"}}',
    '{{"transcript_id": "{own}", "tran\\u017fcript_id": "{foreign}"}}',
    '{{"transcript_id": "{own}", "\\u0074ranscript_id": "{foreign}"}}',
    '{{"transcript_id": "{own}", "x": {{"transcript_id": "{foreign}"}}}}',
    '{{"x": {{"transcript_id": "{foreign}"}}, "x": {{}}, "transcript_id": "{own}"}}',
]


async def holding(*refs: Ref, team: str = "team-a") -> MemoryResources:
    resources = MemoryResources()
    for ref in refs:
        await resources.record(Resource(ref, team, "project-k1", 1_800_000_000.0, "completed"))
    return resources


@pytest.mark.parametrize("body", TWICE)
def test_an_own_name_does_not_cover_a_foreign_one(body: str) -> None:
    async def main() -> None:
        resources = await holding(Ref("transcript", "own"))
        await resources.record(Resource(Ref("transcript", "foreign"), "team-b", "project-k1", 1.0))
        script = Script(lambda _: answer(200))
        script.pool(resources=resources)
        caller = await script.ask("POST", "/v1/chat/completions", body.format(own="own", foreign="foreign").encode())
        assert caller.status == 404
        assert script.requests == []
        both_own = body.format(own="own", foreign="own").encode()
        assert (await script.ask("POST", "/v1/chat/completions", both_own)).status == 200
        assert script.requests[0].content == both_own, "the body goes on as it came"
        await script.app.aclose()

    run(main())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["own", "foreign"])
def test_another_encoding_is_a_400_whatever_it_names(encoding: str, name: str) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200))
        script.pool(resources=await holding(Ref("transcript", "own")))
        body = json.dumps({"transcript_id": name}).encode(encoding)
        fields = (b"content-type", f"application/json; charset={encoding}".encode())
        caller = await script.ask("POST", "/v1/chat/completions", body, fields)
        assert (caller.status, caller.json["code"]) == (400, "BAD_REQUEST")
        assert script.requests == []
        await script.app.aclose()

    run(main())


def test_a_mark_of_the_byte_order_is_taken_and_checked() -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200))
        script.pool(resources=await holding(Ref("transcript", "own")))
        own, foreign = (codecs.BOM_UTF8 + json.dumps({"transcript_id": name}).encode() for name in ("own", "foreign"))
        assert (await script.ask("POST", "/v1/chat/completions", own)).status == 200
        assert (await script.ask("POST", "/v1/chat/completions", foreign)).status == 404
        assert [request.content for request in script.requests] == [own]
        await script.app.aclose()

    run(main())


def test_a_body_that_names_nothing_passes_as_it_is() -> None:
    """It may even be broken: that is upstream's to say."""

    async def main() -> None:
        script = Script(lambda _: answer(422, {"error": "no"}))
        script.pool()
        for body in (b'{"model": ', b"[1]", b"", b"{}", b'{"a": 1}'):
            assert (await script.ask("POST", "/v1/chat/completions", body)).status == 422
        await script.app.aclose()

    run(main())


def test_own_names_are_served(gateway: Gateway) -> None:
    own = owned(gateway)
    with gateway.client("red") as red:
        assert red.post("/v2/transcript", json={"Audio_URL": own["upload"], "audio_url": own["upload"]}).is_success
        assert red.post("/v1/chat/completions", json=chat(transcript_id=own["transcript"])).status_code == 200
        answered = red.put(f"/v1/webhook-subscriptions/{own['hook']}", json={"agent_id": own["agent"]})
        assert answered.status_code == 200


# Names that hide in texts


@pytest.mark.parametrize(
    "url",
    [
        "https://u%2F@cdn.assemblyai.com/upload/{id}",
        "https://u%3F@cdn.assemblyai.com/upload/{id}",
        "https://u%23@cdn.assemblyai.com/upload/{id}",
        "https:/cdn.assemblyai.com/upload/{id}",
        "https:///cdn.assemblyai.com/upload/{id}",
        "https://x\\@cdn.assemblyai.com/upload/{id}",
        "https://cdn\u3002assemblyai\u3002com/upload/{id}",
        "https://cdn.assembly\u00adai.com/upload/{id}",
        "https://cdn.as\tsemblyai.com/upload/{id}",
        "\thttps://cdn.assemblyai.com/upload/{id}",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_foreign_upload_is_refused_in_disguise(url: str, ascii_only: bool) -> None:
    async def main() -> None:
        own = "https://cdn.assemblyai.com/upload/1"
        script = Script(lambda _: answer(200, {"id": "t1", "status": "queued"}))
        script.pool(resources=await holding(Ref("upload", own)))
        body = json.dumps({"audio_url": url.format(id=1)}, ensure_ascii=ascii_only).encode()
        assert (await script.ask("POST", "/v2/transcript", body)).status == 404
        assert script.requests == []
        for passes in (own, "https://example.com/talk.mp3"):
            assert (
                await script.ask("POST", "/v2/transcript", json.dumps({"audio_url": passes}).encode())
            ).status == 200
        await script.app.aclose()

    run(main())


@pytest.mark.parametrize(
    "voice", [UNKNOWN, UNKNOWN.replace("-", ""), f"{{{UNKNOWN}}}", f"urn:uuid:{UNKNOWN}", f"URN:UUID:{UNKNOWN}"]
)
def test_a_cloned_voice_of_others_is_refused(voice: str) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(200))
        script.pool()
        assert (await script.ask("POST", "/v1/speech", json.dumps({"voice_id": voice}).encode())).status == 404
        assert (await script.ask("POST", "/v1/speech", b'{"voice_id": "jane"}')).status == 200
        assert len(script.requests) == 1
        await script.app.aclose()

    run(main())


# What makes a team lose its own


@pytest.mark.parametrize("part", ["redacted-audio", "sentences", "srt", "word-search?words=a"])
@pytest.mark.parametrize(("status", "body"), [(404, None), (400, {"error": "Transcript lookup error, no such id"})])
def test_a_part_that_is_not_there_does_not_cost_the_team_its_transcript(
    gateway: Gateway, part: str, status: int, body: Any
) -> None:
    transcript = owned(gateway)["transcript"]
    gateway.simulator.fail(Fault.status(status, body), path=f"/v2/transcript/*/{part.partition('?')[0]}")
    with gateway.client("red") as red:
        assert red.get(f"/v2/transcript/{transcript}/{part}").status_code == status
        assert red.get(f"/v2/transcript/{transcript}").status_code == 200
        assert [item["id"] for item in red.get("/v2/transcript").json()["transcripts"]] == [transcript]


@pytest.mark.parametrize(("status", "body"), [(404, None), (400, {"error": "Transcript lookup error, no such id"})])
def test_a_transcript_that_is_gone_upstream_is_forgotten(gateway: Gateway, status: int, body: Any) -> None:
    transcript = owned(gateway)["transcript"]
    rule = gateway.simulator.fail(Fault.status(status, body), method="GET", path="/v2/transcript/*")
    with gateway.client("red") as red:
        assert red.get(f"/v2/transcript/{transcript}").status_code == status
        gateway.simulator.heal(rule)
        gateway.simulator.forget()
        assert red.get(f"/v2/transcript/{transcript}").status_code == 404
        assert gateway.simulator.requests == []


@pytest.mark.parametrize(
    ("status", "body"), [(400, {"error": "Invalid endpoint schema"}), (400, b"[" * 60_000), (500, None), (403, None)]
)
def test_another_error_does_not_make_it_forgotten(gateway: Gateway, status: int, body: Any) -> None:
    transcript = owned(gateway)["transcript"]
    rule = gateway.simulator.fail(Fault.status(status, body), method="GET", path="/v2/transcript/*")
    with gateway.client("red") as red:
        assert red.get(f"/v2/transcript/{transcript}").status_code == status
        gateway.simulator.heal(rule)
        assert red.get(f"/v2/transcript/{transcript}").status_code == 200


def test_a_subscription_that_names_a_missing_agent_forgets_nothing(gateway: Gateway) -> None:
    own = owned(gateway)
    rule = gateway.simulator.fail(Fault.status(404, {"error": "Agent not found"}), method="PUT")
    with gateway.client("red") as red:
        path = f"/v1/webhook-subscriptions/{own['hook']}"
        assert red.put(path, json={"agent_id": own["agent"]}).status_code == 404
        assert red.put(f"/v1/agents/{own['agent']}", json={"name": "other"}).status_code == 404
        gateway.simulator.heal(rule)
        assert red.get(path).status_code == 200
        assert red.get(f"/v1/agents/{own['agent']}").status_code == 200


# Without isolation


def by_project(statuses: dict[str, int]) -> Any:
    """Answer by the project of the key; keys are called by their names in ``faults.rig``."""

    def answered(request: httpx.Request) -> httpx.Response:
        name = next(name for name in statuses if f"-{name}-" in request.headers["authorization"])
        return answer(statuses[name], {"id": UNKNOWN, "status": "completed"} if statuses[name] == 200 else None)

    return answered


@pytest.mark.parametrize(
    ("first", "second", "status", "code"),
    [
        (500, 404, 502, "UPSTREAM_FAILED"),
        (404, 500, 502, "UPSTREAM_FAILED"),
        (403, 404, 502, "UPSTREAM_FAILED"),
        (400, 404, 502, "UPSTREAM_FAILED"),
        (404, 404, 404, "NOT_FOUND"),
        (500, 200, 200, None),
    ],
)
def test_unknown_is_said_only_when_every_project_has_said_so(
    first: int, second: int, status: int, code: str | None
) -> None:
    async def main() -> None:
        script = Script(by_project({"k1": first, "k2": second}))
        script.pool("k1", "k2", isolation="off")
        caller = await script.ask("GET", f"/v2/transcript/{UNKNOWN}")
        assert (caller.status, caller.json.get("code")) == (status, code)
        await script.app.aclose()

    run(main())


def test_a_project_that_cannot_be_reached_has_not_said_so() -> None:
    async def main() -> None:
        script = Script(lambda r: httpx.ConnectError("no") if "-k1-" in r.headers["authorization"] else answer(404))
        script.pool("k1", "k2", isolation="off")
        assert (await script.ask("GET", f"/v2/transcript/{UNKNOWN}")).status == 502
        await script.app.aclose()

    run(main())


@pytest.mark.parametrize("status", [404, 500])
def test_asking_for_unknown_ids_costs_the_teams_quota(status: int) -> None:
    async def main() -> None:
        script = Script(lambda _: answer(status))
        script.pool("k1", isolation="off", limits=[Limit("requests", 1, per="minute")])
        assert (await script.ask("GET", f"/v2/transcript/{UNKNOWN}")).status == {404: 404, 500: 502}[status]
        asked = len(script.requests)
        caller = await script.ask("GET", f"/v2/transcript/{UNKNOWN}")
        assert (caller.status, caller.json["code"]) == (429, "QUOTA_EXCEEDED")
        assert len(script.requests) == asked
        await script.app.aclose()

    run(main())


# What the store in memory gives up first


def resource(kind: str, number: int, **more: Any) -> Resource:
    return Resource(Ref(kind, f"{kind}-{number}"), "team-a", "p", 1_800_000_000.0 + number, **more)


def test_a_flood_of_tokens_costs_tokens_alone() -> None:
    async def main() -> None:
        resources = MemoryResources(max_entries=100, retention={})
        for number in range(20):
            await resources.record(resource("transcript", number, status="completed"))
        await resources.record(resource("agent", 0))
        for number in range(5000):
            await resources.record(resource("token", number))
        assert len(await resources.page(Page("transcript", limit=1000, team="team-a"))) == 20
        assert await resources.find(Ref("agent", "agent-0")) is not None
        assert await resources.find(Ref("token", "token-0")) is None
        assert await resources.find(Ref("token", "token-4999")) is not None
        assert "100 owners" in repr(resources)

    run(main())


def test_what_is_kept_of_a_transcript_is_cut() -> None:
    async def main() -> None:
        long = "https://example.com/" + "x" * 500_000
        made = {"id": "t1", "status": "queued", "audio_url": long, "error": {"deep": [long]}}
        script = Script(lambda _: answer(200, made))
        resources = MemoryResources()
        script.pool(resources=resources)
        caller = await script.ask("POST", "/v2/transcript", json.dumps({"audio_url": long}).encode())
        assert (caller.status, caller.json) == (200, made)
        kept = await resources.find(Ref("transcript", "t1"))
        assert kept is not None
        assert len(kept.summary) < 5000
        assert json.loads(kept.summary)["audio_url"] == long[:2048]
        await script.app.aclose()

    run(main())
