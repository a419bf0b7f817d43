"""The official Python SDK works against the simulator, and finds in it what it expects of AssemblyAI."""

from __future__ import annotations

import assemblyai as aai
import pytest
from assemblyai.prerecorded.v2 import api as prerecorded_api

from keypool_asgi.testing import Fault, silence_wav, tone_wav

# The SDK's own affair: it calls pydantic by an old name.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def transcriber(sdk: aai.Client, **config: object) -> aai.Transcriber:
    return aai.Transcriber(client=sdk, config=aai.TranscriptionConfig(**config))


def test_the_whole_workflow(sim, sdk, tmp_path) -> None:
    file = tmp_path / "meeting.wav"
    file.write_bytes(tone_wav(12.4))
    work = transcriber(sdk, speaker_labels=True, language_detection=True)

    transcript = work.transcribe(str(file))

    assert transcript.status == aai.TranscriptStatus.completed
    assert transcript.audio_duration == 12
    assert transcript.text == " ".join(word.text for word in transcript.words)
    assert [word.start for word in transcript.words] == sorted(word.start for word in transcript.words)
    assert transcript.words[-1].end <= 12_400
    assert {utterance.speaker for utterance in transcript.utterances} == {"A", "B"}
    assert " ".join(each.text for each in transcript.get_sentences()) == transcript.text
    assert " ".join(each.text for each in transcript.get_paragraphs()) == transcript.text
    wanted = transcript.words[3].text.lower().strip(".")
    assert 3 in transcript.word_search([wanted, "absent"])[0].indexes
    assert transcript.export_subtitles_srt().startswith("1\n00:00:00,000 --> ")
    assert transcript.export_subtitles_vtt().startswith("WEBVTT\n\n00:00.000 --> ")
    assert sim.billed("audio_seconds", key=sim.key) == pytest.approx(12.4)
    assert not sim.violations
    assert {record.connection for record in sim.requests} == {1}, "the SDK keeps one connection"


def test_captions_are_no_wider_than_asked(sdk) -> None:
    transcript = transcriber(sdk).transcribe(silence_wav(20))
    lines = transcript.export_subtitles_srt(chars_per_caption=24).split("\n")
    captions = lines[2::4]
    assert len(captions) > 3
    assert max(len(line) for line in captions) <= 24
    assert " ".join(captions).strip() == transcript.text


def test_delete_blanks_the_transcript_and_its_upload(sim, sdk) -> None:
    transcript = transcriber(sdk).transcribe(silence_wav(2))
    deleted = _delete(sdk, transcript.id)
    assert deleted.audio_url == "http://deleted_by_user"
    assert deleted.words is None
    assert sim.uploads == []
    with pytest.raises(aai.TranscriptError, match="Cannot access uploaded file"):
        transcriber(sdk).submit(transcript.audio_url)


def _delete(sdk: aai.Client, ident: str) -> aai.types.TranscriptResponse:
    return prerecorded_api.delete_transcript(sdk.http_client, ident)


def test_the_sdk_pages_through_the_list(sim, sdk) -> None:
    work = transcriber(sdk)
    made = [work.submit("https://example.com/a.mp3").id for _ in range(5)]
    seen: list[str] = []
    params = aai.ListTranscriptParameters(limit=2)
    while True:
        page = work.list_transcripts(params)
        seen += [item.id for item in page.transcripts]
        assert all(item.resource_url == f"{sim.url}/v2/transcript/{item.id}" for item in page.transcripts)
        if page.page_details.before_id_of_prev_url is None:
            break
        params.before_id = page.page_details.before_id_of_prev_url
    assert seen == made[::-1]


def test_a_failed_job_is_a_200(sdk) -> None:
    transcript = transcriber(sdk).transcribe("https://example.com/will-fail.mp3")
    assert transcript.status == aai.TranscriptStatus.error
    assert "unable to download" in transcript.error


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda sim: sim.revoke_key(sim.key), "Authentication error, API token missing/invalid"),
        (lambda sim: sim.set_balance("account-1", -1), "Your current account balance is negative"),
        (lambda sim: sim.throttle("account-1"), "Too Many Requests"),
    ],
)
def test_refusals_read_as_the_sdk_expects(sim, sdk, break_it, sentence) -> None:
    break_it(sim)
    with pytest.raises(aai.TranscriptError, match=sentence):
        transcriber(sdk).transcribe(silence_wav(1))


def test_redacted_audio_is_pending_then_ready(sim, sdk) -> None:
    sim.settings.clock = lambda: 1_000_000.0
    config = aai.TranscriptionConfig().set_redact_pii(policies=[aai.PIIRedactionPolicy.person_name], redact_audio=True)
    transcript = aai.Transcriber(client=sdk, config=config).submit("https://example.com/a.mp3")
    with pytest.raises(aai.types.RedactedAudioIncompleteError):
        prerecorded_api.get_redacted_audio(sdk.http_client, transcript.id)
    sim.finish_jobs()
    assert prerecorded_api.get_redacted_audio(sdk.http_client, transcript.id).redacted_audio_url.startswith(
        "https://s3"
    )
    sim.settings.clock = lambda: 1_000_000.0 + 90_000
    with pytest.raises(aai.types.RedactedAudioExpiredError):
        prerecorded_api.get_redacted_audio(sdk.http_client, transcript.id)


def test_sync_and_dictation(sim, sdk) -> None:
    said = aai.SyncTranscriber(client=sdk).transcribe(silence_wav(3))
    assert said.audio_duration_ms == 3000
    assert said.text
    shout = aai.DictationConfig(llm_instruction="Shout.")
    written = aai.DictationTranscriber(client=sdk, config=shout).transcribe_live(iter([silence_wav(2)]))
    assert written.llm_response == written.text.upper()
    assert [record.service for record in sim.requests] == ["sync", "dictation"]
    assert [record.path for record in sim.requests] == ["/v1/transcribe/live"] * 2
    assert sim.billed("audio_seconds") == pytest.approx(5)


def test_live_audio_arrives_in_chunks(sim, sdk) -> None:
    wav = silence_wav(2)
    pieces = [wav[n : n + 1000] for n in range(0, len(wav), 1000)]
    result = aai.SyncTranscriber(client=sdk).transcribe_live(iter(pieces))
    assert result.audio_duration_ms == 2000
    assert sim.requests[0].header("transfer-encoding") == "chunked"


def test_the_llm_gateway_answers_and_streams(sim, sdk) -> None:
    gateway = aai.LLMGateway(client=sdk)
    model = gateway.models.list().data[0].id
    messages = [{"role": "user", "content": "What was said?"}]
    whole = gateway.chat.completions.create(model=model, messages=messages)
    stream = list(gateway.chat.completions.create(model=model, messages=messages, stream=True))
    said = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert stream[-1].usage.total_tokens == whole.usage.total_tokens
    assert sim.billed("output_tokens") == 2 * whole.usage.output_tokens


def test_understanding_needs_a_transcript_of_the_account(sim, sdk) -> None:
    transcript = transcriber(sdk).transcribe(silence_wav(1))
    gateway = aai.LLMGateway(client=sdk)
    feature = {"speaker_identification": {"speaker_type": "name"}}
    answer = gateway.understanding.create(transcript_id=transcript.id, request=feature)
    assert answer.speech_understanding["request"] == feature
    gateway.understanding.validate(request=feature)
    with pytest.raises(aai.LLMGatewayError) as caught:
        gateway.understanding.create(transcript_id="another", request=feature)
    assert caught.value.status_code == 404


def test_speech_streams_and_says_what_it_bills(sim, sdk) -> None:
    speech = aai.TextToSpeech(client=sdk)
    whole = speech.synthesize("Good morning, team.")
    assert whole.billed_characters == len("Good morning, team.")
    assert whole.audio_duration_ms == round(len(whole.audio) / 48)
    with speech.stream("Good morning, team.") as stream:
        assert stream.info.voice_id == "aai-jane"
        assert stream.read() == whole.audio


def test_a_body_that_is_cut_is_an_error_of_the_sdk(sim, sdk) -> None:
    sim.fail(Fault.reset("response body", 2000), service="tts")
    with aai.TextToSpeech(client=sdk).stream("Good morning, team.") as stream, pytest.raises(aai.TTSError, match="cut"):
        stream.read()
    assert sim.requests[0].outcome == "cut"
