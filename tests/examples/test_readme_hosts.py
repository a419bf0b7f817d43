"""The README's tables of hosts and servers: each row is a workflow over real sockets."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import assemblyai
import httpx
import pytest
from harness import HOSTS, SERVERS, Hosted, RawConnection, secret, serve, token

from keypool_asgi import Team, UpstreamKey
from keypool_asgi.testing import Simulator, silence_wav
from keypool_asgi.upstream import NativeClient

Sdk = Callable[[str, str], assemblyai.Transcriber]


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each pool that was closed."""
    closings: list[None] = []
    close = NativeClient.aclose

    async def counted(client: NativeClient) -> None:
        closings.append(None)
        await close(client)

    monkeypatch.setattr(NativeClient, "aclose", counted)
    return closings


def hosted(name: str, simulator: Simulator, **more: Any) -> Hosted:
    settings: dict[str, Any] = {
        "keys": [UpstreamKey("prod-1", secret("good"), project="prod")],
        "teams": {token("research"): Team("research")},
        "origins": simulator.origins,
    }
    return HOSTS[name](**settings, **more)


def work(sdk: Sdk, base: str) -> None:
    transcript = sdk(base, token("research")).transcribe(io.BytesIO(silence_wav(1)))
    assert transcript.export_subtitles_srt()


@pytest.mark.parametrize("name", HOSTS)
def test_a_workflow_in_every_host_and_who_closes_the_pool(
    name: str, simulator: Simulator, sdk: Sdk, closings: list[None]
) -> None:
    host = hosted(name, simulator)
    with serve(host.app, root_path=host.root_path) as served:  # Django too: with a lifespan, which the pool answers
        work(sdk, served.url + host.base)
        assert closings == []
    assert closings == [None]


@pytest.mark.parametrize("server", SERVERS)
def test_a_workflow_and_a_refused_upload_on_every_server(server: str, simulator: Simulator, sdk: Sdk) -> None:
    host = hosted("bare-wrapped", simulator)
    with serve(host.app, server) as served:
        base = served.url + host.base
        work(sdk, base)
        with RawConnection(base) as connection:
            connection.send(
                b"POST /v1/assemblyai/v2/upload HTTP/1.1\r\nHost: pool\r\nAuthorization: unknown\r\n"
                b"Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
            )
            answer = connection.read_until(b"UNAUTHORIZED")
            assert (b"HTTP/1.1 100" in answer) == (server == "hypercorn")
            assert b"HTTP/1.1 401" in answer


def test_another_prefix_and_a_public_url(simulator: Simulator, sdk: Sdk) -> None:
    host = hosted("bare-wrapped", simulator, prefix="/speech", public_url="https://notes.example.com/speech")
    with serve(host.app) as served:
        base = f"{served.url}/speech"
        work(sdk, base)
        listed = httpx.get(f"{base}/v2/transcript", headers={"authorization": token("research")}).json()
        (transcript,) = listed["transcripts"]
        assert transcript["resource_url"] == f"https://notes.example.com/speech/v2/transcript/{transcript['id']}"
        assert httpx.get(f"{served.url}/v1/assemblyai/v2/transcript").json() != listed
