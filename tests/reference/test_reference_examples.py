"""The examples of the document: they fit its schemas, and sent to a pool they are answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness import need

from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.reference import document
from keypool_asgi.testing import tone_wav

from .gateway_served import Gateway, opened

DOCUMENT = document(ASSEMBLYAI.table)

# The simulator mints no tokens of the unified token service, and has nothing that was redacted.
NOT_SIMULATED = {"tokens.create", "transcripts.redacted_audio"}


def bodies() -> Iterator[tuple[str, Any, Any]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, item in methods.items():
            if method == "parameters":
                continue
            parts = [item.get("requestBody", {}), *item["responses"].values()]
            for part in parts:
                for media in part.get("content", {}).values():
                    for name, example in media.get("examples", {}).items():
                        yield f"{method} {path} {name}", media["schema"], example["value"]
    for name, response in DOCUMENT["components"]["responses"].items():
        media = response["content"]["application/json"]
        for code, example in media["examples"].items():
            yield f"{name} {code}", media["schema"], example["value"]


def check(schema: dict[str, Any], value: Any) -> None:
    need("jsonschema")
    from jsonschema import Draft202012Validator

    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


EXAMPLES = list(bodies())


@pytest.mark.parametrize(("schema", "value"), [pair[1:] for pair in EXAMPLES], ids=[pair[0] for pair in EXAMPLES])
def test_examples_of_bodies_fit_their_schemas(schema: dict[str, Any], value: Any) -> None:
    check(schema, value)


def test_examples_of_parameters_fit_their_schemas() -> None:
    found = 0
    for methods in DOCUMENT["paths"].values():
        items = [item for method, item in methods.items() if method != "parameters"]
        listed = [*methods.get("parameters", []), *(each for item in items for each in item.get("parameters", []))]
        for parameter in listed:
            if "example" in parameter:
                check(parameter["schema"], parameter["example"])
                found += 1
    assert found > 10


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with opened() as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        yield client


def requests() -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, item in methods.items()
        if method != "parameters"
        and not item.get("deprecated")
        and "x-websocket" not in item
        and not NOT_SIMULATED.intersection(item["x-keypool-operations"][:1])
    ]


@pytest.mark.parametrize(("method", "path"), requests())
def test_the_first_example_works_and_is_answered_as_described(client: httpx.Client, method: str, path: str) -> None:
    item = DOCUMENT["paths"][path][method]
    ids = made(client)
    answer = client.request(method, path.format(**ids), **arguments(item, ids))
    assert str(answer.status_code) in item["responses"], answer.text
    assert answer.status_code < 400, answer.text
    content = item["responses"][str(answer.status_code)].get("content")
    if content is None:
        assert not answer.content
        return
    media = answer.headers["content-type"].partition(";")[0]
    assert media in content
    if media == "application/json":
        check(content[media]["schema"], answer.json())


def test_a_refusal_is_as_described(client: httpx.Client) -> None:
    for path, status in (("/v2/transcript/39487a83", 404), ("/lemur/v3/39487a83", 410)):
        answer = client.get(path)
        assert answer.status_code == status
        check(DOCUMENT["components"]["schemas"]["Refusal"], answer.json())
    answer = client.get("/v2/transcript", headers={"authorization": "tt-kp-nobody"})
    assert answer.status_code == 401
    described = DOCUMENT["components"]["responses"]["Error401"]
    check(described["content"]["application/json"]["schema"], answer.json())
    assert {name.lower() for name in described["headers"]} <= set(answer.headers)


def test_an_error_of_upstreams_own_is_as_described(client: httpx.Client) -> None:
    for path, body in (("/v2/transcript", {}), ("/v1/chat/completions", {"model": "none"}), ("/v1/speech", {})):
        answer = client.post(path, json=body)
        assert answer.status_code == 400
        assert "code" not in answer.json() or answer.json()["code"] != "BAD_REQUEST"
        check(DOCUMENT["components"]["schemas"]["UpstreamError"], answer.json())


def made(client: httpx.Client) -> dict[str, str]:
    """Make what the paths name: it belongs to the team then."""
    transcript = client.post("/v2/transcript", json={"audio_url": "https://example.com/meeting.mp3"}).json()["id"]
    assert client.get(f"/v2/transcript/{transcript}").json()["status"] == "completed"
    return {
        "transcript_id": transcript,
        "agent_id": client.post("/v1/agents", json={"name": "Receptionist"}).json()["id"],
        "subscription_id": client.post("/v1/webhook-subscriptions", json={"url": "https://example.com/e"}).json()["id"],
    }


def arguments(item: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """What the document gives as an example for a request of an operation, with identifiers that are there."""
    wanted: dict[str, Any] = {"params": {}, "headers": {}}
    for parameter in item["parameters"]:
        if parameter["required"] or parameter["in"] == "header":
            kind = {"query": "params", "header": "headers"}[parameter["in"]]
            wanted[kind][parameter["name"]] = str(parameter["example"])
    for media, body in item.get("requestBody", {}).get("content", {}).items():
        if media == "application/json":
            value = next(iter(body["examples"].values()))["value"]
            wanted["json"] = {**value, **{name: ids[name] for name in value if name in ids}}
        elif media == "multipart/form-data":
            wanted["files"] = {"config": (None, "{}"), "audio": ("clip.wav", tone_wav(1), "audio/wav")}
        else:
            wanted["content"] = tone_wav(1)
    return wanted
