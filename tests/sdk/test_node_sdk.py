"""The official Node SDK works through the pool with nothing changed but ``baseUrl`` and ``apiKey``."""

from __future__ import annotations

import pytest

from keypool_asgi.testing import Simulator

from .gateway import KEY_A, KEY_B, Gateway
from .nodes import Node, buffer, stream

QUICK = {"pollingInterval": 5}


@pytest.fixture
def sdk(node: Node, gateway: Gateway):
    """Call a method of the SDK's client: ``sdk("transcripts.list", {"limit": 2})``."""
    options = dict.fromkeys(("baseUrl", "syncBaseUrl", "dictationBaseUrl", "llmGatewayBaseUrl"), gateway.url)
    return lambda method, *args: node.call({"apiKey": gateway.token, **options}, method, *args)


def upload_of(sim: Simulator):
    return next(record for record in sim.requests if record.path == "/v2/upload")


def test_a_file_is_uploaded_and_transcribed_in_its_language(gateway, sdk, recording) -> None:
    """Path in, text out: upload, submit and poll behind one call, with language detection."""
    transcript = sdk("transcripts.transcribe", {"audio": str(recording), "language_detection": True}, QUICK)
    assert transcript["status"] == "completed"
    assert transcript["language_code"] == "en"
    assert transcript["audio_duration"] == 12
    assert transcript["text"] == " ".join(word["text"] for word in transcript["words"])
    assert [record.method for record in gateway.sim.requests[:2]] == ["POST", "POST"]


def test_a_url_is_transcribed(gateway, sdk) -> None:
    transcript = sdk("transcripts.transcribe", {"audio": gateway.audio_url}, QUICK)
    assert transcript["status"] == "completed"
    assert transcript["audio_url"] == gateway.audio_url


def test_a_job_is_submitted_and_polled(gateway, sdk) -> None:
    job = sdk("transcripts.submit", {"audio": gateway.audio_url})
    assert job["status"] in ("queued", "processing")
    assert sdk("transcripts.waitUntilReady", job["id"], QUICK)["status"] == "completed"
    assert sdk("transcripts.get", job["id"])["id"] == job["id"]


@pytest.mark.parametrize("form", [str, buffer, stream])
def test_every_form_of_an_upload_arrives_whole(gateway, sdk, recording, form) -> None:
    """A path and a stream come chunked, a Buffer with its length; upstream gets every byte."""
    url = sdk("files.upload", form(recording))
    assert url.startswith("https://cdn.assemblyai.com/upload/")
    (stored,) = gateway.sim.uploads
    assert stored.size == recording.stat().st_size
    chunked = upload_of(gateway.sim).header("transfer-encoding") == "chunked"
    assert chunked == (form is not buffer)


def test_everything_that_is_made_of_a_transcript(gateway, sdk, recording) -> None:
    """Sentences, paragraphs, srt, vtt and word search; all on the key of the project that has the transcript."""
    transcript = sdk("transcripts.transcribe", {"audio": str(recording)}, QUICK)
    ident, text = transcript["id"], transcript["text"]
    assert " ".join(each["text"] for each in sdk("transcripts.sentences", ident)["sentences"]) == text
    assert " ".join(each["text"] for each in sdk("transcripts.paragraphs", ident)["paragraphs"]) == text
    assert sdk("transcripts.subtitles", ident, "srt").startswith("1\n00:00:00,000 --> ")
    assert sdk("transcripts.subtitles", ident, "vtt").startswith("WEBVTT\n\n00:00.000 --> ")
    assert max(map(len, sdk("transcripts.subtitles", ident, "srt", 24).split("\n")[2::4])) <= 24
    wanted = transcript["words"][3]["text"].lower().strip(".")
    found = sdk("transcripts.wordSearch", ident, [wanted, "of course not"])
    assert 3 in found["matches"][0]["indexes"]
    assert len({record.key for record in gateway.sim.requests}) == 1


def test_redacted_audio(gateway, sdk) -> None:
    asked = {"audio": gateway.audio_url, "redact_pii": True, "redact_pii_audio": True}
    policies = {"redact_pii_policies": ["person_name"]}
    ident = sdk("transcripts.transcribe", {**asked, **policies}, QUICK)["id"]
    found = sdk("transcripts.redactedAudio", ident)
    assert found["status"] == "redacted_audio_ready"
    assert found["redacted_audio_url"].startswith("https://s3")


def test_the_list_pages_through_us_and_never_to_upstream(gateway, sdk) -> None:
    """The SDK sends its credential wherever ``prev_url`` points: it must point here."""
    made = [sdk("transcripts.submit", {"audio": gateway.audio_url})["id"] for _ in range(5)]
    page = sdk("transcripts.list", {"limit": 2})
    seen = [item["id"] for item in page["transcripts"]]
    while older := page["page_details"]["prev_url"]:
        assert older.startswith(f"{gateway.url}/v2/transcript?")
        assert page["page_details"]["current_url"].startswith(f"{gateway.url}/v2/transcript")
        assert all(item["resource_url"] == f"{gateway.url}/v2/transcript/{item['id']}" for item in page["transcripts"])
        page = sdk("transcripts.list", older)
        seen += [item["id"] for item in page["transcripts"]]
    assert seen == made[::-1]
    newer = sdk("transcripts.list", page["page_details"]["next_url"])
    assert [item["id"] for item in newer["transcripts"]] == made[2:0:-1]
    assert {record.key for record in gateway.sim.requests} <= {KEY_A, KEY_B}
    assert not gateway.sim.saw(gateway.token)


def test_a_deleted_transcript_is_gone(gateway, sdk, recording) -> None:
    ident = sdk("transcripts.transcribe", {"audio": str(recording)}, QUICK)["id"]
    assert sdk("transcripts.delete", ident)["audio_url"] == "http://deleted_by_user"
    assert gateway.sim.uploads == []
    assert sdk("transcripts.list")["transcripts"] == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_streaming_token_is_minted_also_with_a_trailing_slash(gateway, node, slash) -> None:
    """The SDK makes ``//v3/token`` of a base that ends in a slash."""
    options = {"apiKey": gateway.token, "streamingBaseUrl": gateway.url + slash}
    minted = node.call(options, "streaming.createTemporaryToken", {"expires_in_seconds": 60})
    assert isinstance(minted, str)
    assert minted not in ("", gateway.token)


def test_sync_dictation_and_the_llm_gateway(gateway, sdk, recording) -> None:
    """The other products, all below the one base URL."""
    assert sdk("sync.transcribe", buffer(recording))["audio_duration_ms"] == 12_400
    assert sdk("dictation.transcribeLive", stream(recording))["audio_duration_ms"] == 12_400
    model = sdk("llmGateway.listModels")["data"][0]["id"]
    question = {"model": model, "messages": [{"role": "user", "content": "What was said?"}]}
    assert sdk("llmGateway.chatCompletions", question)["choices"][0]["message"]["content"]
    used = ["sync", "dictation", "llm_gateway", "llm_gateway"]
    assert [record.service for record in gateway.sim.requests] == used


def test_a_base_url_with_a_trailing_slash_is_the_same(gateway, node) -> None:
    options = {"apiKey": gateway.token, "baseUrl": gateway.url + "/"}
    assert node.call(options, "transcripts.submit", {"audio": gateway.audio_url})["id"]


def test_the_ai_sdk_transcribes(gateway, node, recording) -> None:
    """Vercel's ``ai`` with ``@ai-sdk/assemblyai`` and a ``fetch`` that swaps the host."""
    options = {"apiKey": gateway.token, "baseUrl": gateway.url}
    heard = node.call(options, "ai.transcribe", buffer(recording))
    assert heard["text"]
    assert heard["durationInSeconds"] == 12
