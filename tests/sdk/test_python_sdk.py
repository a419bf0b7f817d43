"""The official Python SDK works through the pool with nothing changed but ``base_url`` and ``api_key``."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import assemblyai as aai
import httpx
import pytest
from assemblyai.streaming.v3 import StreamingClient, StreamingClientOptions
from harness import run

from keypool_asgi.testing import Fault, Simulator, silence_wav

from .audio_forms import Unsized
from .gateway import KEY_A, KEY_B, Gateway, opened

# The SDK's own affair: it calls pydantic by an old name.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

QUESTION = [{"role": "user", "content": "What was said?"}]


@pytest.fixture
def sdk(gateway: Gateway, python_sdk, monkeypatch) -> None:
    """The SDK as its documentation has it: module settings, and clients that are made of them."""
    monkeypatch.setattr(aai.settings, "base_url", gateway.url)
    monkeypatch.setattr(aai.settings, "api_key", gateway.token)
    for product in ("sync", "dictation", "llm_gateway", "tts"):
        monkeypatch.setattr(aai.settings, f"{product}_base_url", gateway.url)


@asynccontextmanager
async def async_transcriber() -> AsyncIterator[aai.AsyncTranscriber]:
    async with aai.AsyncTranscriber() as work:
        yield work


def pages_of(list_page) -> Iterator[aai.types.ListTranscriptResponse]:
    """The loop of the SDK's documentation."""
    params = aai.ListTranscriptParameters(limit=2)
    while True:
        page = list_page(params)
        yield page
        if page.page_details.before_id_of_prev_url is None:
            return
        params.before_id = page.page_details.before_id_of_prev_url


QUICK_START = """
import sys, assemblyai as aai
aai.settings.polling_interval = 0.01
transcript = aai.Transcriber().transcribe(sys.argv[1])
print(transcript.status.value, transcript.audio_duration)
"""


def test_two_environment_variables_are_all_that_changes(gateway, recording) -> None:
    """The quick start's code, in a process of its own, against the pool."""
    variables = {"ASSEMBLYAI_BASE_URL": gateway.url, "ASSEMBLYAI_API_KEY": gateway.token}
    done = subprocess.run(
        [sys.executable, "-c", QUICK_START, str(recording)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == ["completed", "12"]


def test_a_file_is_uploaded_and_transcribed_in_its_language(gateway, sdk, recording) -> None:
    config = aai.TranscriptionConfig(language_detection=True, speaker_labels=True)
    transcript = aai.Transcriber(config=config).transcribe(str(recording))
    assert transcript.status == aai.TranscriptStatus.completed
    assert transcript.json_response["language_code"] == "en"
    assert transcript.audio_duration == 12
    assert transcript.text == " ".join(word.text for word in transcript.words)
    assert {utterance.speaker for utterance in transcript.utterances} == {"A", "B"}
    assert gateway.sim.billed("audio_seconds") == pytest.approx(12.4)


def test_a_url_is_transcribed(gateway, sdk) -> None:
    transcript = aai.Transcriber().transcribe(gateway.audio_url)
    assert transcript.status == aai.TranscriptStatus.completed
    assert transcript.audio_url == gateway.audio_url


def test_a_job_is_submitted_and_polled(gateway, sdk) -> None:
    job = aai.Transcriber().submit(gateway.audio_url)
    assert job.status in (aai.TranscriptStatus.queued, aai.TranscriptStatus.processing)
    assert job.wait_for_completion().status == aai.TranscriptStatus.completed
    assert aai.Transcript.get_by_id(job.id).text == job.text


@pytest.mark.parametrize(
    ("form", "chunked"),
    [
        (str, False),
        (lambda path: path, False),
        (lambda path: path.read_bytes(), False),
        (lambda path: io.BytesIO(path.read_bytes()), False),
        (lambda path: Unsized(path.read_bytes()), True),
    ],
    ids=["name", "path", "bytes", "file", "unsized"],
)
def test_every_form_of_an_upload_arrives_whole(gateway, sdk, recording, form, chunked) -> None:
    """The SDK names no content type: upstream is told what it wants to hear."""
    url = aai.Transcriber().upload_file(form(recording))
    (stored,), (record,) = gateway.sim.uploads, gateway.sim.requests
    assert url == stored.url
    assert stored.size == recording.stat().st_size
    assert stored.playable
    assert record.header("content-type") == "application/octet-stream"
    assert (record.header("transfer-encoding") == "chunked") == chunked


def test_everything_that_is_made_of_a_transcript(gateway, sdk, recording) -> None:
    """Sentences, paragraphs, srt, vtt and word search; all on the key of the project that has the transcript."""
    transcript = aai.Transcriber().transcribe(str(recording))
    assert " ".join(each.text for each in transcript.get_sentences()) == transcript.text
    assert " ".join(each.text for each in transcript.get_paragraphs()) == transcript.text
    assert transcript.export_subtitles_srt().startswith("1\n00:00:00,000 --> ")
    assert transcript.export_subtitles_vtt().startswith("WEBVTT\n\n00:00.000 --> ")
    assert max(map(len, transcript.export_subtitles_srt(chars_per_caption=24).split("\n")[2::4])) <= 24
    wanted = transcript.words[3].text.lower().strip(".")
    assert 3 in transcript.word_search([wanted, "of course not"])[0].indexes
    assert len({record.key for record in gateway.sim.requests}) == 1


def test_redacted_audio(gateway, sdk) -> None:
    config = aai.TranscriptionConfig().set_redact_pii(policies=[aai.PIIRedactionPolicy.person_name], redact_audio=True)
    transcript = aai.Transcriber(config=config).transcribe(gateway.audio_url)
    assert transcript.get_redacted_audio_url().startswith("https://s3")


def test_the_list_pages_through_us(gateway, sdk) -> None:
    work = aai.Transcriber()
    made = [work.submit(gateway.audio_url).id for _ in range(5)]
    pages = list(pages_of(work.list_transcripts))
    assert [item.id for page in pages for item in page.transcripts] == made[::-1]
    assert all(
        item.resource_url == f"{gateway.url}/v2/transcript/{item.id}" for page in pages for item in page.transcripts
    )
    assert not gateway.sim.saw(gateway.token)


def test_a_deleted_transcript_is_gone(gateway, sdk, recording) -> None:
    transcript = aai.Transcriber().transcribe(str(recording))
    assert aai.Transcript.delete_by_id(transcript.id).audio_url == "http://deleted_by_user"
    assert gateway.sim.uploads == []
    assert aai.Transcriber().list_transcripts().transcripts == []


def test_a_group_is_transcribed_in_parallel(gateway, sdk) -> None:
    """Eight threads at once: each job goes to the project of its upload, each poll to that of its job."""
    group = aai.Transcriber().transcribe_group([silence_wav(seconds) for seconds in range(1, 7)])
    assert sorted(transcript.audio_duration for transcript in group) == list(range(1, 7))


def test_a_failed_job_is_told_as_upstream_tells_it(gateway, sdk) -> None:
    gateway.sim.fail_job(error="Transcoding failed.")
    transcript = aai.Transcriber().transcribe(gateway.audio_url)
    assert transcript.status == aai.TranscriptStatus.error
    assert transcript.error == "Transcoding failed."


def test_the_async_twin_does_the_same(gateway, sdk, recording) -> None:
    """Upload, poll, sentences, paragraphs, subtitles, word search, list and delete with ``AsyncTranscriber``."""

    async def work() -> None:
        async with async_transcriber() as worker:
            transcript = await worker.transcribe(str(recording))
            assert transcript.status == aai.TranscriptStatus.completed
            assert " ".join(each.text for each in await transcript.get_sentences()) == transcript.text
            assert " ".join(each.text for each in await transcript.get_paragraphs()) == transcript.text
            assert (await transcript.export_subtitles_srt()).startswith("1\n")
            assert (await transcript.export_subtitles_vtt()).startswith("WEBVTT")
            assert await transcript.word_search([transcript.words[0].text.lower()])
            assert [item.id for item in (await worker.list_transcripts()).transcripts] == [transcript.id]
            assert (await worker.delete_by_id(transcript.id)).audio_url == "http://deleted_by_user"
            assert (await worker.list_transcripts()).transcripts == []

    run(work())


def test_the_async_twin_transcribes_a_group(gateway, sdk) -> None:
    async def work() -> list[int]:
        async with async_transcriber() as worker:
            return [each.audio_duration for each in await worker.transcribe_group([silence_wav(3), silence_wav(2)])]

    assert run(work()) == [3, 2]


@pytest.mark.parametrize("form", [str, lambda path: Unsized(path.read_bytes())], ids=["path", "unsized"])
def test_the_async_twin_uploads(gateway, sdk, recording, form) -> None:
    async def work() -> None:
        async with async_transcriber() as worker:
            await worker.upload_file(form(recording))

    run(work())
    assert [stored.size for stored in gateway.sim.uploads] == [recording.stat().st_size]


def test_a_streaming_token_is_minted(python_sdk, monkeypatch) -> None:
    """The SDK's own helper: it speaks TLS only, and takes the host with the prefix."""
    with opened("fastapi-wrapped", tls=True) as gateway:
        monkeypatch.setenv("SSL_CERT_FILE", str(gateway.served.ca))
        options = StreamingClientOptions(api_host=gateway.url.removeprefix("https://"), api_key=gateway.token)
        client = StreamingClient(options)
        minted = client.create_temporary_token(expires_in_seconds=60, max_session_duration_seconds=120)
        client._client._http_client.close()
    assert isinstance(minted, str)
    assert minted not in ("", gateway.token)


def test_the_llm_gateway_answers_and_streams(gateway, sdk) -> None:
    llm = aai.LLMGateway()
    model = llm.models.list().data[0].id
    whole = llm.chat.completions.create(model=model, messages=QUESTION)
    pieces = list(llm.chat.completions.create(model=model, messages=QUESTION, stream=True))
    said = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
    assert said == whole.choices[0].message.content
    assert pieces[-1].usage.total_tokens == whole.usage.total_tokens


def test_understanding_goes_to_the_transcripts_own_project(gateway, sdk) -> None:
    """The body names a transcript, and only one of the two keys knows it, whichever is free."""
    feature = {"speaker_identification": {"speaker_type": "name"}}
    llm = aai.LLMGateway()
    while {job.key.secret for job in gateway.sim.transcripts} != {KEY_A, KEY_B}:
        transcript = aai.Transcriber().transcribe(gateway.audio_url)
        answer = llm.understanding.create(transcript_id=transcript.id, request=feature)
        assert answer.speech_understanding["request"] == feature
    llm.understanding.validate(request=feature)


def test_sync(gateway, sdk) -> None:
    """Whole and live; ``X-AAI-Model`` tells it from dictation."""
    work = aai.SyncTranscriber()
    assert work.warm()
    assert work.transcribe(silence_wav(3)).audio_duration_ms == 3000
    wav = silence_wav(2)
    live = work.transcribe_live(wav[n : n + 1000] for n in range(0, len(wav), 1000))
    assert live.audio_duration_ms == 2000
    assert {record.service for record in gateway.sim.requests} == {"sync"}


def test_dictation(gateway, sdk) -> None:
    work = aai.DictationTranscriber(config=aai.DictationConfig(llm_instruction="Shout."))
    assert work.warm()
    written = work.transcribe_live(iter([silence_wav(2)]))
    assert written.llm_response == written.text.upper()
    assert {record.service for record in gateway.sim.requests} == {"dictation"}


def test_speech(gateway, sdk) -> None:
    """Whole and streamed, with the fields that say what is billed."""
    speech = aai.TextToSpeech()
    whole = speech.synthesize("Good morning, team.")
    assert whole.billed_characters == len("Good morning, team.")
    with speech.stream("Good morning, team.") as streamed:
        assert streamed.info.voice_id == "aai-jane"
        assert streamed.read() == whole.audio


def test_live_audio_reaches_upstream_while_it_is_still_spoken(gateway, sdk) -> None:
    """An upload is not swallowed first and forwarded later."""
    arrived = threading.Event()

    def speaking() -> Iterator[bytes]:
        yield silence_wav(2)[:8000]
        gateway.sim.wait_until(lambda sim: sim.open_requests == 1 and sim.requests[-1].body_size >= 8000)
        arrived.set()
        yield silence_wav(2)[8000:]

    assert aai.SyncTranscriber().transcribe_live(speaking()).audio_duration_ms == 2000
    assert arrived.is_set()


# An OpenAI-like client: no SDK of AssemblyAI's, a bearer token, server-sent events


@pytest.fixture
def openai_like(gateway: Gateway) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {gateway.token}"}
    with httpx.Client(base_url=f"{gateway.url}/v1", headers=headers, timeout=5) as client:
        yield client


def test_an_openai_like_client_chats(gateway, openai_like) -> None:
    """Bearer from the caller, the raw key to upstream."""
    answer = openai_like.post("/chat/completions", json={"model": "gpt-5", "messages": QUESTION})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert gateway.sim.requests[0].header("authorization") in (KEY_A, KEY_B)


def test_an_openai_like_client_gets_each_event_as_it_is_said(gateway, openai_like) -> None:
    """Upstream says one event and falls silent for a while: it is here before the last one has been sent."""
    gateway.sim.fail(Fault.stalled("response body", 400, seconds=0.7), path="/v1/chat/completions")
    wanted = {"model": "gpt-5", "messages": QUESTION, "stream": True}
    with openai_like.stream("POST", "/chat/completions", json=wanted) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        assert gateway.sim.requests[0].outcome == "open"
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert answer.headers["content-type"] == "text/event-stream"


def test_a_stream_of_many_events_comes_piece_by_piece(python_sdk) -> None:
    """The Python SDK's stream too: its first piece is here while upstream is still speaking."""
    with opened(simulator=Simulator({KEY_A: "acme/alpha", KEY_B: "beta-corp/beta"}, stream_interval=0.05)) as gateway:
        settings = aai.Settings(api_key=gateway.token, llm_gateway_base_url=gateway.url)
        client = aai.Client(settings=settings)
        stream = aai.LLMGateway(client=client).chat.completions.create(model="gpt-5", messages=QUESTION, stream=True)
        next(iter(stream))
        assert gateway.sim.open_requests == 1
        assert len(list(stream)) > 5
        client.http_client.close()
