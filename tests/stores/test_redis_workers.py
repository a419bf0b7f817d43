"""Two worker processes, as on two machines, and one Redis server: one set of owners and one count of limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from harness import free_port, secret, token
from harness.redis import redis_server

from keypool_asgi.testing import Simulator, tone_wav

APP = textwrap.dedent(
    """
    import json, os
    from keypool_asgi import KeyPool, Limit, Team, UpstreamKey
    from keypool_asgi.stores.redis import RedisState
    settings = json.loads(os.environ["POOL"])
    state = RedisState(settings["state"])
    app = KeyPool(
        keys=[UpstreamKey(name, text, project=name) for name, text in settings["keys"].items()],
        teams={
            text: Team(name, limits=[Limit("requests", 30, per="hour"), Limit("concurrency", 20)])
            for name, text in settings["teams"].items()
        },
        origins=settings["origins"],
        resources=state.resources,
        quotas=state.quotas,
    )
    """
)


@contextmanager
def worker(folder, environment):
    """One process with one server, on the app that is in the folder."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "worker_app:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | environment)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}/v1/assemblyai", headers={"authorization": token("red")}, timeout=20
        ) as client:
            deadline = time.monotonic() + 30
            while not _answers(client):
                assert time.monotonic() < deadline, "the worker does not answer"
                time.sleep(0.05)
            yield client
    finally:
        process.kill()  # without a goodbye: what was answered must be in the server
        process.wait()


def _answers(client):
    try:
        client.get("/nothing")
    except httpx.ConnectError:
        return False
    return True


@pytest.fixture
def own():
    with redis_server(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def environment(own, tmp_path):
    (tmp_path / "worker_app.py").write_text(APP)
    names = ("p1", "p2", "p3")
    with Simulator({secret(name): f"{name}/{name}" for name in names}).running() as simulator:
        settings = {
            "keys": {name: secret(name) for name in names},
            "teams": {"red": token("red"), "green": token("green")},
            "origins": dict(simulator.origins),
            "state": own.url,
        }
        yield {"POOL": json.dumps(settings)}
        assert simulator.foreign_requests == []


def test_workers_know_each_others_resources(tmp_path, environment, own):
    with worker(tmp_path, environment) as first, worker(tmp_path, environment) as second:
        uploads = [first.post("/v2/upload", content=tone_wav(1)).json()["upload_url"] for _ in range(3)]
        answers = [second.post("/v2/transcript", json={"audio_url": url}) for url in uploads]
        assert [answer.status_code for answer in answers] == [200] * 3
        ids = [answer.json()["id"] for answer in answers]
        own.kill()
        refused = first.get(f"/v2/transcript/{ids[0]}")
        assert (refused.status_code, refused.json()["code"]) == (503, "STORE_UNAVAILABLE")
        own.start()
        deadline = time.monotonic() + 20
        while first.get(f"/v2/transcript/{ids[0]}").status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert {first.get(f"/v2/transcript/{name}").json()["status"] for name in ids} == {"completed"}
        green = {"authorization": token("green")}
        assert second.get(f"/v2/transcript/{ids[0]}", headers=green).status_code == 404
    with worker(tmp_path, environment) as third:
        assert [item["id"] for item in third.get("/v2/transcript").json()["transcripts"]] == ids[::-1]


def test_workers_share_one_limit(tmp_path, environment):
    """30 requests per hour, of 80 that are sent to both at the same time."""
    with worker(tmp_path, environment) as first, worker(tmp_path, environment) as second:

        def ask(number):
            return (first, second)[number % 2].get("/v2/transcript").status_code

        with ThreadPoolExecutor(8) as threads:
            codes = list(threads.map(ask, range(80)))
        assert {code: codes.count(code) for code in set(codes)} == {200: 30, 429: 50}
        green = {"authorization": token("green")}
        assert second.get("/v2/transcript", headers=green).status_code == 200
