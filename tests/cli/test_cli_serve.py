"""``keypool serve``: the pool of a file, for the official SDK, over TLS, in several processes, and ended in order."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import assemblyai
import httpx
import pytest
from cli_rig import PEPPER, Running, environment, keypool, running, write
from harness import need, secret, token
from harness.servers import _certificate

from keypool_asgi.stores.teams import TokenDigest
from keypool_asgi.testing import Fault, Simulator, tone_wav

TOKEN = token("served")
HEADERS = {"authorization": TOKEN}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator({secret("good"): "account/prod"}).running() as simulator:
        yield simulator


def configuration(simulator: Simulator, folder: Path, **settings: Any) -> Path:
    """A file with one key and one team, whose digest is made under the tests' pepper."""
    (folder / "good.key").write_text(secret("good") + "\n")
    return write(
        folder / "keypool.toml",
        **{
            "pepper_env": "THE_PEPPER",
            "keys": [{"id": "good", "secret_file": "good.key", "project": "prod"}],
            "teams": [{"id": "research", "token_digests": [TokenDigest.of(TOKEN, PEPPER)]}],
            "origins": dict(simulator.origins),
            **settings,
        },
    )


@contextlib.contextmanager
def serving(file: Path, *arguments: str) -> Iterator[tuple[Running, str]]:
    """Serve until the block ends; yields the command and its base URL."""
    command = ("serve", "--config", str(file), "--port", "0", *arguments)
    with running(*command, THE_PEPPER=PEPPER) as served:
        line = served.wait_for("Serving the pool on ")
        served.wait_for("startup complete")
        yield served, line.removeprefix("Serving the pool on ") + "/v1/assemblyai"


def submit(url: str) -> httpx.Response:
    """Submit a job: unlike a list of a team that owns nothing, it goes upstream."""
    return httpx.post(f"{url}/v2/transcript", json={"audio_url": "https://example.com/a"}, headers=HEADERS, timeout=30)


def submit_in_vain(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        submit(url)


def test_it_answers_the_official_sdk_and_ends_in_order(simulator: Simulator, tmp_path: Path) -> None:
    recording = tmp_path / "recording.wav"
    recording.write_bytes(tone_wav(1.0))
    with serving(configuration(simulator, tmp_path)) as (served, url):
        settings = assemblyai.Settings(api_key=TOKEN, base_url=url, polling_interval=0.05)
        client = assemblyai.Client(settings=settings)
        transcript = assemblyai.Transcriber(client=client).transcribe(str(recording))
        client.http_client.close()
        assert transcript.text
        assert httpx.get(f"{url}/v2/transcript").json()["code"] == "UNAUTHORIZED"
        line = served.wait_for("research transcripts.create 200 keys=good")
        assert TOKEN not in line
        served.wait_for("refused=UNAUTHORIZED")
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0, served.output
    assert "Traceback" not in served.output
    assert TOKEN not in served.output


def test_a_request_that_is_going_on_may_end_and_new_ones_are_refused(simulator: Simulator, tmp_path: Path) -> None:
    simulator.fail(Fault.stalled(), path="/v2/transcript")
    with serving(configuration(simulator, tmp_path, drain_seconds=20)) as (served, url):
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(submit(url)))
        asking.start()
        simulator.wait_until(lambda sim: sim.requests)
        served.process.send_signal(signal.SIGINT)
        ends = time.monotonic() + 10
        while (refused := httpx.get(f"{url}/v2/transcript", headers=HEADERS)).status_code != 503:
            assert time.monotonic() < ends
        assert refused.headers["retry-after"] == "1"
        simulator.release()
        asking.join(20)
        assert [answer.status_code for answer in answers] == [200]
        assert served.end() == 0, served.output


def test_a_session_is_ended_in_order_before_the_server_closes_it(simulator: Simulator, tmp_path: Path) -> None:
    need("websockets")
    from websockets.exceptions import ConnectionClosedError
    from websockets.sync.client import connect

    with serving(configuration(simulator, tmp_path)) as (served, url):
        target = f"{url.replace('http', 'ws')}/v3/ws?sample_rate=16000"
        with connect(target, additional_headers=HEADERS) as caller:
            assert json.loads(caller.recv(10))["type"] == "Begin"
            served.process.send_signal(signal.SIGTERM)
            assert json.loads(caller.recv(10))["type"] == "Termination", "upstream's last words"
            with pytest.raises(ConnectionClosedError, match=r"1012 .*This server is shutting down"):
                caller.recv(10)
        assert served.end() == 0, served.output
    assert [session.state for session in simulator.sessions] == ["terminated"]


def test_a_temporary_token_in_a_url_is_not_in_the_log(simulator: Simulator, tmp_path: Path) -> None:
    need("websockets")
    from websockets.sync.client import connect

    with serving(configuration(simulator, tmp_path)) as (served, url):
        minted = httpx.get(f"{url}/v3/token?expires_in_seconds=60", headers=HEADERS).json()["token"]
        with connect(f"{url.replace('http', 'ws')}/v3/ws?sample_rate=16000&token={minted}") as caller:
            assert json.loads(caller.recv(10))["type"] == "Begin"
        with connect(f"{url.replace('http', 'ws')}/v3/ws?sample_rate=16000&token={minted}x") as caller:
            assert json.loads(caller.recv(10))["code"] == "UNAUTHORIZED"
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0, served.output
    assert "streaming.session" in served.output
    assert minted not in served.output


def test_a_second_signal_does_not_wait(simulator: Simulator, tmp_path: Path) -> None:
    simulator.fail(Fault.stalled(), path="/v2/transcript")
    with serving(configuration(simulator, tmp_path, drain_seconds=120)) as (served, url):
        asking = threading.Thread(target=submit_in_vain, args=(url,))
        asking.start()
        simulator.wait_until(lambda sim: sim.requests)
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        served.process.send_signal(signal.SIGINT)
        assert served.end(30) == 0, served.output
        asking.join(20)


def test_a_key_that_is_rotated_in_its_file_is_taken_up_without_a_restart(simulator: Simulator, tmp_path: Path) -> None:
    with serving(configuration(simulator, tmp_path, keys_ttl_seconds=0.2)) as (_, url):
        assert submit(url).status_code == 200
        simulator.add_key(secret("new"), project="prod")
        simulator.revoke_key(secret("good"))
        (tmp_path / "good.key").write_text(secret("new"))
        ends = time.monotonic() + 20
        while submit(url).status_code != 200:
            assert time.monotonic() < ends
            time.sleep(0.1)
    assert simulator.requests[-1].key == secret("new")


def test_it_serves_https(simulator: Simulator, tmp_path: Path) -> None:
    need("openssl")
    certificate, _ = _certificate(tmp_path)
    server = {"tls_certificate": certificate.name, "tls_key": "key.pem"}
    with serving(configuration(simulator, tmp_path, server=server)) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=certificate)
        answer = httpx.get(f"{url}/v2/transcript", headers=HEADERS, verify=trust)
        assert answer.status_code == 200


def test_the_reference_page_is_served_where_that_is_wanted(simulator: Simulator, tmp_path: Path) -> None:
    need("fastapi_offline")
    with serving(configuration(simulator, tmp_path, reference=True)) as (_, url):
        assert httpx.get(f"{url}/openapi.json").json()["openapi"]
        assert "text/html" in httpx.get(f"{url}/reference").headers["content-type"]


def test_several_workers_serve_and_end(simulator: Simulator, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = configuration(simulator, tmp_path, state=f"sqlite:///{tmp_path / 'keypool.db'}")
    command = ("serve", "--config", str(file), "--port", str(port), "--workers", "2")
    with running(*command, THE_PEPPER=PEPPER) as served:
        ends = time.monotonic() + 30
        while served.output.count("startup complete") < 2:
            assert time.monotonic() < ends, served.output
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port}/v1/assemblyai/v2/transcript"
        assert httpx.get(url, headers=HEADERS).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0, served.output
    assert "Traceback" not in served.output


def test_several_workers_without_state_are_warned_of(simulator: Simulator, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file, port = configuration(simulator, tmp_path), str(taken.getsockname()[1])
        command = ("serve", "--config", str(file), "--port", port)
        done = keypool(*command, "--workers", "2", code=1, THE_PEPPER=PEPPER)
        assert "several workers without state" in done.stderr
        assert f"127.0.0.1, port {port}, cannot be listened on: Address already in use" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "65536"], "port must be from 0 to 65535, not 65536"),
        (["--workers", "0"], "workers must be from 1 to 256, not 0"),
        (["--tls-key", "key.pem"], "tls_key needs tls_certificate"),
        (["--tls-certificate", "nowhere.pem"], "tls_certificate: nowhere.pem cannot be read: No such file"),
        (["--tls-certificate", "keypool.toml"], "are not a certificate (PEM) and its key"),
    ],
)
def test_wrong_options_are_a_wrong_use(
    simulator: Simulator, tmp_path: Path, arguments: list[str], message: str
) -> None:
    configuration(simulator, tmp_path)
    command = ("serve", "--config", "keypool.toml", *arguments)
    assert message in keypool(*command, folder=tmp_path, code=2, THE_PEPPER=PEPPER).stderr


def test_an_address_that_is_not_this_machines_is_told(simulator: Simulator, tmp_path: Path) -> None:
    file = configuration(simulator, tmp_path, server={"host": "192.0.2.1"})
    done = keypool("serve", "--config", str(file), code=1, THE_PEPPER=PEPPER)
    assert "192.0.2.1, port 8000, cannot be listened on" in done.stderr


def test_a_wrong_file_is_a_wrong_use_and_shows_no_secret(simulator: Simulator, tmp_path: Path) -> None:
    file = configuration(simulator, tmp_path, keys=[{"id": "good", "secret": secret("good"), "weight": 0}])
    done = keypool("serve", "--config", str(file), code=2, THE_PEPPER=PEPPER)
    assert re.search(r"keypool.toml, \[\[keys\]\] 1: UpstreamKey 'good': weight must be greater than 0", done.stderr)
    assert "the secret stands in the file itself" in done.stderr


def test_what_it_needs_is_named_when_it_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    path = environment({})["PYTHONPATH"] + f":{tmp_path}"
    done = keypool("serve", "--config", "x.toml", code=1, PYTHONPATH=path)
    assert "keypool serve needs uvicorn, which is not installed" in done.stderr
    assert "keypool-asgi[serve]" in done.stderr
    assert json.dumps(done.stdout) == '""'
