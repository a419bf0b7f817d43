"""The FastAPI example: over real sockets, with the official SDK, its keys and teams in a real SQLite file."""

from __future__ import annotations

import io
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import assemblyai
import httpx
import pytest
from harness import Served, need, secret, serve, token

from examples.fastapi_app import app as example
from examples.fastapi_app.app import create_app
from examples.fastapi_app.manage import main
from examples.fastapi_app.store import Store
from keypool_asgi import ExchangeRecord
from keypool_asgi.testing import Simulator, silence_wav

TTL_SECONDS = 0.05
Sdk = Callable[[str, str], assemblyai.Transcriber]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A dead key first, then two that work; one team that may do everything, and one that may only read."""
    store = Store(tmp_path / "keypool.db", pepper="the operator's pepper")
    store.add_key("old-1", secret("dead"), project="retired")
    store.add_key("prod-1", secret("good"), project="prod", priority=1)
    store.add_key("prod-2", secret("spare"), project="prod", priority=2)
    store.add_team("research", requests_per_minute=600)
    store.add_team("archive", operations=["transcripts.get", "transcripts.list"])
    for team in ("research", "archive"):
        store.issue_token(team, token=token(team))
    return store


@dataclass
class App:
    """The served example: ``base`` is the pool's URL, ``records`` what its exchanges were."""

    served: Served
    base: str
    records: list[ExchangeRecord]


@pytest.fixture
def app(store: Store, simulator: Simulator) -> Iterator[App]:
    records: list[ExchangeRecord] = []
    ttl = {"keys_ttl_seconds": TTL_SECONDS, "teams_ttl_seconds": TTL_SECONDS, "unknown_teams_ttl_seconds": TTL_SECONDS}
    app = create_app(store, origins=simulator.origins, on_exchange=records.append, **ttl)
    with serve(app) as served:
        yield App(served, f"{served.url}/v1/assemblyai", records)


def listed(app: App, name: str) -> int:
    """List the team's transcripts, which the pool may answer by itself; return the status."""
    return httpx.get(f"{app.base}/v2/transcript", headers={"authorization": token(name)}).status_code


def submitted(app: App, name: str) -> int:
    """Submit a job, which needs a key; return the status."""
    job = {"audio_url": "https://example.com/meeting.mp3"}
    return httpx.post(f"{app.base}/v2/transcript", json=job, headers={"authorization": token(name)}).status_code


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within 5 s"
        time.sleep(TTL_SECONDS)


def test_the_notes_service_answers_as_without_the_pool(app: App) -> None:
    url = app.served.url
    assert httpx.get(f"{url}/").json() == {"service": "meeting notes", "notes": "/notes"}
    added = httpx.post(f"{url}/notes", json={"title": "Weekly"})
    assert (added.status_code, added.json()["id"]) == (201, 1)
    assert httpx.get(f"{url}/notes").json() == [added.json()]
    assert httpx.get(f"{url}/notes/1").json() == added.json()
    assert httpx.get(f"{url}/notes/2").status_code == 404
    assert httpx.get(f"{url}/openapi.json").json()["info"]["title"] == "Meeting notes"
    assert app.records == []


def test_the_pools_operations_are_in_the_hosts_document_and_on_the_reference_page(app: App) -> None:
    paths = httpx.get(f"{app.served.url}/openapi.json").json()["paths"]
    assert {"get", "post"} <= set(paths["/v1/assemblyai/v2/transcript"])
    assert set(paths["/notes"]) == {"get", "post"}
    need("fastapi_offline")
    page = httpx.get(f"{app.base}/reference", timeout=30)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert httpx.get(f"{app.base}/openapi.json").json()["servers"][0]["url"] == app.base
    assert app.records == []


def test_without_the_extra_there_is_no_reference_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "find_spec", lambda _name: None)
    with serve(create_app(store)) as served:
        answer = httpx.get(f"{served.url}/v1/assemblyai/reference")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


def test_a_whole_workflow_with_the_official_sdk_walks_past_the_dead_key(app: App, sdk: Sdk) -> None:
    transcript = sdk(app.base, token("research")).transcribe(io.BytesIO(silence_wav(2)))
    assert transcript.text
    assert transcript.export_subtitles_srt().startswith("1\n")
    eventually(lambda: len(app.records) >= 4)
    assert app.records[0].operation == "uploads.create"
    assert app.records[0].keys == ("old-1", "prod-1")
    assert {record.keys for record in app.records[1:]} == {("prod-1",)}
    assert {record.team for record in app.records} == {"research"}


def test_a_rotated_key_is_used_without_a_restart(app: App, store: Store, simulator: Simulator) -> None:
    simulator.revoke_key(secret("good"))
    assert submitted(app, "research") == 200
    eventually(lambda: [record.keys for record in app.records] == [("old-1", "prod-1", "prod-2")])
    simulator.add_key(secret("rotated"), project="prod")
    store.rotate_key("prod-1", secret("rotated"))

    def is_used() -> bool:
        assert submitted(app, "research") == 200
        return bool(simulator.saw(secret("rotated")))

    eventually(is_used)


def test_a_removed_key_is_not_used_any_more(app: App, store: Store, simulator: Simulator) -> None:
    assert submitted(app, "research") == 200
    store.remove_key("prod-1")
    eventually(lambda: submitted(app, "research") == 200 and app.records[-1].keys == ("prod-2",))


def test_a_team_may_do_what_its_row_says(app: App) -> None:
    assert listed(app, "archive") == 200
    upload = httpx.post(f"{app.base}/v2/upload", headers={"authorization": token("archive")}, content=b"RIFF")
    assert (upload.status_code, upload.json()["code"]) == (403, "FORBIDDEN")


def test_a_team_is_held_to_its_requests_per_minute(app: App, store: Store) -> None:
    store.add_team("small", requests_per_minute=2)
    store.issue_token("small", token=token("small"))
    assert [submitted(app, "small") for _ in range(3)] == [200, 200, 429]


def test_a_revoked_and_an_expired_token_end(app: App, store: Store) -> None:
    assert listed(app, "archive") == 200
    store.revoke_token(token("archive"))
    eventually(lambda: listed(app, "archive") == 401)
    store.issue_token("archive", token=token("late"), expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert listed(app, "late") == 401


def test_the_file_holds_digests_and_is_its_owners(store: Store) -> None:
    assert token("research").encode() not in store.path.read_bytes()
    if os.name != "nt":
        assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert Store(store.path, pepper="another").find_team(token("research")) is None


def test_a_file_that_cannot_be_read_refuses(app: App, store: Store) -> None:
    store.path.write_bytes(b"this is no database" * 1000)
    answer = httpx.get(f"{app.base}/v2/transcript", headers={"authorization": token("research")})
    assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")


def test_the_command_line_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], simulator: Simulator
) -> None:
    with pytest.raises(SystemExit, match="KEYPOOL_PEPPER"):
        main(["init"])
    monkeypatch.setenv("KEYPOOL_DB", str(tmp_path / "made.db"))
    monkeypatch.setenv("KEYPOOL_PEPPER", "of this test")
    monkeypatch.setenv("KEYPOOL_API_ORIGIN", simulator.url)
    assert main(["init"]) == 0
    assert main(["init"]) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO("wrong\n"))
    assert main(["add-key", "prod-1", "--project", "prod"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(secret("good") + "\n"))
    assert main(["rotate-key", "prod-1"]) == 0
    assert main(["rotate-key", "unknown"]) == 1
    assert main(["list"]) == 0
    assert main(["issue-token", "research"]) == 0
    said = capsys.readouterr()
    assert "key prod-1, project prod" in said.out
    assert "sk-kp-" not in said.out + said.err
    issued = said.out.splitlines()[-1]
    monkeypatch.setenv("KEYPOOL_STATE", f"sqlite:///{tmp_path}/state.db")
    path, headers = "/v1/assemblyai/v2/transcript", {"authorization": f"Bearer {issued}"}
    with serve(create_app()) as served:
        job = httpx.post(served.url + path, headers=headers, json={"audio_url": "https://example.com/meeting.mp3"})
    with serve(create_app()) as served:
        assert httpx.get(f"{served.url}{path}/{job.json()['id']}", headers=headers).status_code == 200
