"""Two worker processes and one SQLite file: what one has recorded the other knows, also after both have restarted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from harness import free_port, secret, token

from keypool_asgi.testing import Simulator, tone_wav

APP = textwrap.dedent(
    """
    import json, os
    from keypool_asgi import KeyPool, Team, UpstreamKey
    settings = json.loads(os.environ["POOL"])
    app = KeyPool(
        keys=[UpstreamKey(name, text, project=name) for name, text in settings["keys"].items()],
        teams={text: Team(name) for name, text in settings["teams"].items()},
        origins=settings["origins"],
        state=settings["state"],
    )
    """
)


@contextmanager
def worker(folder: Path, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """One process with one server, on the app that is in the folder."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "worker_app:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}/v1/assemblyai", headers={"authorization": token("red")}, timeout=10
        ) as client:
            deadline = time.monotonic() + 20
            while not _answers(client):
                assert time.monotonic() < deadline, "the worker does not answer"
                time.sleep(0.05)
            yield client
    finally:
        process.kill()  # without a goodbye: what was answered must be in the file
        process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/nothing")
    except httpx.ConnectError:
        return False
    return True


def test_nothing_is_lost_between_two_workers_and_their_restarts(tmp_path: Path) -> None:
    names = ("p1", "p2", "p3")
    with Simulator({secret(name): f"{name}/{name}" for name in names}).running() as simulator:
        settings = {
            "keys": {name: secret(name) for name in names},
            "teams": {"red": token("red"), "green": token("green")},
            "origins": dict(simulator.origins),
            "state": f"sqlite:///{tmp_path / 'owners.db'}",
        }
        (tmp_path / "worker_app.py").write_text(APP)
        environment = {"POOL": json.dumps(settings)}
        with worker(tmp_path, environment) as first, worker(tmp_path, environment):
            uploads = [first.post("/v2/upload", content=tone_wav(1)).json()["upload_url"] for _ in range(6)]
        with worker(tmp_path, environment) as first, worker(tmp_path, environment) as second:
            answers = [second.post("/v2/transcript", json={"audio_url": url}) for url in uploads]
            assert [answer.status_code for answer in answers] == [200] * 6
            ids = [answer.json()["id"] for answer in answers]
            assert {first.get(f"/v2/transcript/{name}").json()["status"] for name in ids} == {"completed"}
        with worker(tmp_path, environment) as first:
            assert [item["id"] for item in first.get("/v2/transcript").json()["transcripts"]] == ids[::-1]
            green = {"authorization": token("green")}
            assert first.get(f"/v2/transcript/{ids[0]}", headers=green).status_code == 404
        assert simulator.foreign_requests == []
