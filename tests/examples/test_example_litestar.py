"""The Litestar example: the pool mounted, over real sockets, with the official SDK."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import assemblyai
import httpx
import pytest
from harness import secret, serve, token

from examples.litestar_app.app import create_app
from keypool_asgi.testing import Fault, Simulator, Stall, silence_wav


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSEMBLYAI_KEYS", f"prod-1={secret('good')} prod-2={secret('spare')}")
    monkeypatch.setenv("TEAM_TOKENS", f"research={token('research')}")


@pytest.mark.usefixtures("environment")
def test_the_host_and_a_whole_workflow(simulator: Simulator, sdk: Callable[[str, str], assemblyai.Transcriber]) -> None:
    with serve(create_app(origins=simulator.origins)) as served:
        assert httpx.get(served.url).json() == {"service": "call archive"}
        assert httpx.get(f"{served.url}/nothing").status_code == 404
        transcriber = sdk(f"{served.url}/v1/assemblyai", token("research"))
        transcript = transcriber.transcribe(io.BytesIO(silence_wav(2)))
        assert transcript.export_subtitles_vtt().startswith("WEBVTT")
        assert [item.id for item in transcriber.list_transcripts().transcripts] == [transcript.id]
        assert len(simulator.transcripts) == 1


@pytest.mark.usefixtures("environment")
def test_the_pools_operations_are_in_the_hosts_document() -> None:
    with serve(create_app()) as served:
        document = httpx.get(f"{served.url}/schema/openapi.json").json()
    assert document["info"]["title"] == "Call archive"
    assert {"get", "post"} <= set(document["paths"]["/v1/assemblyai/v2/transcript"])
    assert "/" in document["paths"]


@pytest.mark.usefixtures("environment")
def test_a_stopping_host_lets_the_pools_exchanges_end(simulator: Simulator) -> None:
    simulator.fail(Fault(stall=Stall(seconds=0.3)), times=1)
    with ThreadPoolExecutor() as threads:
        with serve(create_app(origins=simulator.origins, drain_seconds=5)) as served:
            url, headers = f"{served.url}/v1/assemblyai/v2/transcript", {"authorization": token("research")}
            job = {"audio_url": "https://example.com/call.mp3"}
            answer = threads.submit(httpx.post, url, headers=headers, json=job)
            simulator.wait_until(lambda simulator: simulator.open_requests == 1)
        assert answer.result().status_code == 200
