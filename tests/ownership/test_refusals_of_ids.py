"""Every place that names an id refuses another team's like what does not exist, and upstream never hears of it."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from harness import secret
from ownership.pools import Gateway

from keypool_asgi.providers.assemblyai import ASSEMBLYAI
from keypool_asgi.testing import tone_wav

UNKNOWN = "00000000-0000-4000-8000-000000000000"
UNKNOWN_UPLOAD = f"https://cdn.assemblyai.com/upload/{UNKNOWN}"

# Operation to the JSON body that names an id there; None where the path does.
NAMING = {
    (row.method, row.path, named.kind, named.field if named.in_body else None)
    for row in ASSEMBLYAI.table.operations
    for named in row.names
    if row.method != "WEBSOCKET"
}


def owned_by_red(gateway: Gateway) -> dict[str, str]:
    with gateway.client("red") as red:
        upload = red.post("/v2/upload", content=tone_wav(1)).json()["upload_url"]
        transcript = red.post("/v2/transcript", json={"audio_url": upload}).json()["id"]
        agent = red.post("/v1/agents", json={"name": "receptionist"}).json()["id"]
        subscription = red.post("/v1/webhook-subscriptions", json={"url": "https://example.com"}).json()["id"]
    return {"upload": upload, "transcript": transcript, "agent": agent, "webhook_subscription": subscription}


def naming(client: httpx.Client, method: str, path: str, field: str | None, name: str) -> httpx.Response:
    body: Any = {"model": "m", "messages": [], "url": "https://example.com", field: name} if field else None
    for parameter in ("transcript_id", "agent_id", "subscription_id"):
        path = path.replace(f"{{{parameter}}}", name if field is None else UNKNOWN)
    return client.request(method, path, json=body) if body or method == "PUT" else client.request(method, path)


@pytest.mark.parametrize(("method", "path", "kind", "field"), sorted(NAMING, key=str))
def test_foreign_and_unknown_are_refused_alike(
    gateway: Gateway, method: str, path: str, kind: str, field: str | None
) -> None:
    unknown_name = UNKNOWN_UPLOAD if kind == "upload" else UNKNOWN
    foreign_name = owned_by_red(gateway).get(kind, "11111111-1111-4111-8111-111111111111")
    before = len(gateway.simulator.requests)

    with gateway.client("green") as green:
        foreign = naming(green, method, path, field, foreign_name)
        unknown = naming(green, method, path, field, unknown_name)

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content
    assert [name for name in foreign.headers if name != "x-request-id"] == [
        name for name in unknown.headers if name != "x-request-id"
    ]
    assert len(gateway.simulator.requests) == before, "upstream heard of it"


def test_the_owner_is_served_where_others_are_refused(gateway: Gateway) -> None:
    own = owned_by_red(gateway)
    with gateway.client("red") as red:
        assert red.get(f"/v2/transcript/{own['transcript']}").status_code == 200
        assert red.post("/v2/transcript", json={"audio_url": own["upload"]}).status_code == 200
        assert red.get(f"/v1/agents/{own['agent']}").status_code == 200
        assert red.put(f"/v1/agents/{own['agent']}", json={"name": "other"}).status_code == 200
        assert red.get(f"/v1/webhook-subscriptions/{own['webhook_subscription']}").status_code == 200


@pytest.mark.parametrize(
    "disguise",
    [
        "{url}?x=1",
        "{url}#fragment",
        "HTTPS://CDN.ASSEMBLYAI.COM/upload/{id}",
        "https://cdn.assemblyai.com:443/upload/{id}",
        "https://cdn.assemblyai.com./upload/{id}",
        "https://user:word@cdn.assemblyai.com/upload/{id}",
        "https://cdn.assemblyai.com\\upload\\{id}",
        " https://cdn.assemblyai.com/upload/{id}",
        "https://cdn.assembly\tai.com/upload/{id}",
        "https://cdn%2Eassemblyai.com/upload/{id}",
        "https://cdn\uff0eassemblyai\uff0ecom/upload/{id}",
        "http://cdn.assemblyai.com/upload/{id}",
        "https://cdn.eu.assemblyai.com/upload/{id}",
        "//cdn.assemblyai.com/upload/{id}",
    ],
)
def test_a_foreign_upload_is_refused_in_every_disguise(gateway: Gateway, disguise: str) -> None:
    url = owned_by_red(gateway)["upload"]
    disguised = disguise.format(url=url, id=url.rpartition("/")[2])
    before = len(gateway.simulator.requests)
    with gateway.client("green") as green:
        assert green.post("/v2/transcript", json={"audio_url": disguised}).status_code == 404
    assert len(gateway.simulator.requests) == before


def test_another_url_is_just_a_url(gateway: Gateway) -> None:
    with gateway.client("green") as green:
        made = green.post("/v2/transcript", json={"audio_url": "https://example.com/assemblyai.com/talk.mp3"})
        assert made.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{{"audio_url": "https://example.com/a.mp3", "audio_url": "{url}"}}',
        '{{"audio_url": "{url}", "audio_url": "https://example.com/a.mp3"}}',
        '{{"audio\\u005furl": "{url}"}}',
        '{{"audio_url": ["{url}"]}}',
        '{{"aud\u0131o_url": "{url}"}}',
    ],
)
def test_a_member_that_stands_twice_or_escaped_is_checked(gateway: Gateway, body: str) -> None:
    url = owned_by_red(gateway)["upload"]
    with gateway.client("green") as green:
        headers = {"content-type": "application/json"}
        assert green.post("/v2/transcript", content=body.format(url=url), headers=headers).status_code == 404


@pytest.mark.parametrize(
    "body", [b'{"audio_url": ', b'["audio_url"]', b'\xff\xfe{"audio_url": 1}', b"[" * 100_000 + b"audio_url"]
)
def test_a_body_that_cannot_be_checked_is_refused(gateway: Gateway, body: bytes) -> None:
    with gateway.client("green") as green:
        refused = green.post("/v2/transcript", content=body)
    assert refused.status_code == 400
    assert refused.json()["code"] == "BAD_REQUEST"


def test_a_compressed_body_is_refused(gateway: Gateway) -> None:
    with gateway.client("green") as green:
        refused = green.post("/v2/transcript", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert refused.json()["code"] == "BAD_REQUEST"


def test_what_a_restart_loses_is_logged_once(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "keypool_asgi"), gateway.client("green") as green:
        green.get(f"/v2/transcript/{UNKNOWN}")
        green.get(f"/v2/transcript/{UNKNOWN}")
    hints = [record for record in caplog.records if "state='sqlite:///" in record.getMessage()]
    assert len(hints) == 1


def test_a_deleted_transcript_is_forgotten(gateway: Gateway) -> None:
    transcript = owned_by_red(gateway)["transcript"]
    with gateway.client("red") as red:
        assert red.delete(f"/v2/transcript/{transcript}").status_code == 200
        assert red.get(f"/v2/transcript/{transcript}").status_code == 404
        assert red.get("/v2/transcript").json()["transcripts"] == []


@pytest.mark.parametrize("gateway", [{"isolation": "off"}], indirect=True)
def test_without_isolation_workflows_stay_on_their_project(gateway: Gateway) -> None:
    """Teams share; an id that nobody has recorded is found by asking the projects, once."""
    own = owned_by_red(gateway)
    with gateway.client("green") as green:
        assert green.get(f"/v2/transcript/{own['transcript']}").status_code == 200
        assert green.post("/v2/transcript", json={"audio_url": own["upload"]}).status_code == 200


@pytest.mark.parametrize("gateway", [{"isolation": "off"}], indirect=True)
def test_without_isolation_an_unrecorded_id_is_found_and_remembered(gateway: Gateway) -> None:
    """Projects are asked in turn, by safe reads; the second request goes straight to the right one."""
    with httpx.Client(base_url=gateway.simulator.url, headers={"authorization": secret("p3")}) as direct:
        made = direct.post("/v2/transcript", json={"audio_url": "https://example.com/a.mp3"}).json()["id"]
    with gateway.client("green") as green:
        assert green.get(f"/v2/transcript/{made}").status_code == 200
        gateway.simulator.forget()
        assert green.get(f"/v2/transcript/{made}/sentences").status_code == 200
        assert [request.project for request in gateway.simulator.requests] == ["p3"]
        assert green.get(f"/v2/transcript/{UNKNOWN}").status_code == 404
