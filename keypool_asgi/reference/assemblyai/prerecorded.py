"""Uploads and transcripts (``api.assemblyai.com``)."""

from __future__ import annotations

from keypool_asgi.reference.pages import Answer, Body, Example, Page, Parameter
from keypool_asgi.reference.schemas import binary, choice, flag, integer, ref, text

from .common import PRERECORDED, TRANSCRIPT_ID, ByOperation, json

__all__ = ["PAGES"]

_AUDIO_URL = "https://example.com/meeting.mp3"

_JOBS = {
    "shortest": Example("Nothing but the audio", {"audio_url": _AUDIO_URL}),
    "meeting": Example(
        "A meeting with several speakers",
        {"audio_url": _AUDIO_URL, "speaker_labels": True, "language_detection": True},
    ),
    "redacted": Example(
        "Without personal data",
        {
            "audio_url": _AUDIO_URL,
            "redact_pii": True,
            "redact_pii_policies": ["person_name", "phone_number"],
            "redact_pii_sub": "entity_name",
        },
    ),
}
_QUEUED = {"id": TRANSCRIPT_ID, "status": "queued", "audio_url": _AUDIO_URL, "text": None}
_COMPLETED = {
    **_QUEUED,
    "status": "completed",
    "text": "Good morning.",
    "words": [
        {"text": "Good", "start": 120, "end": 340, "confidence": 0.98, "speaker": None},
        {"text": "morning.", "start": 350, "end": 720, "confidence": 0.97, "speaker": None},
    ],
    "confidence": 0.975,
    "audio_duration": 1,
    "language_code": "en",
    "speech_model_used": "universal-3-5-pro",
}
_FAILED = {**_QUEUED, "status": "error", "error": "Transcoding failed. File does not appear to contain audio."}


def _transcript(description: str, **examples: Example) -> dict[int, Answer]:
    return {200: Answer(description, (Body(ref("Transcript"), examples=examples),))}


def _captions(name: str) -> Page:
    return Page(
        tag=PRERECORDED,
        summary=f"{name} subtitles",
        description=f"A completed transcript as {name} subtitles.",
        parameters=(
            Parameter(
                "chars_per_caption",
                integer("", 1),
                "The most characters in one caption, one word at least.",
                example=32,
            ),
        ),
        answers={200: Answer("The subtitles.", (Body(text(), "text/plain"),))},
    )


_LIST_PARAMETERS = (
    Parameter("limit", integer("", 1, 200, default=10), "The most transcripts on one page."),
    Parameter("status", choice("", "queued", "processing", "completed", "error"), "Only those with this status."),
    Parameter("created_on", text(format="date"), "Only those submitted on this day, in UTC."),
    Parameter("before_id", text(), "Only those older than this one."),
    Parameter("after_id", text(), "Only those newer than this one."),
    Parameter("throttled_only", flag(deprecated=True), "Only those that wait; deprecated."),
)

PAGES: ByOperation = {
    ("uploads.create", "POST"): Page(
        tag=PRERECORDED,
        summary="Upload a file",
        description=(
            "Stores an audio or video file of at most 2.2 GB. The body is the file itself, not a form. Submit its "
            "`upload_url` within 24 hours; it can be used by your team only."
        ),
        body=Body(binary("The file, as it is."), "application/octet-stream"),
        answers={
            200: Answer(
                "It is stored.",
                (
                    Body(
                        ref("Upload"),
                        examples={
                            "stored": Example(
                                "Stored",
                                {
                                    "upload_url": "https://cdn.assemblyai.com/upload/f756988d-47e2-4ca3-96ce-04bb168f8f2a"
                                },
                            )
                        },
                    ),
                ),
            )
        },
    ),
    ("transcripts.create", "POST"): Page(
        tag=PRERECORDED,
        summary="Submit a transcription job",
        description=(
            "Starts a job and returns at once. Poll `GET /v2/transcript/{transcript_id}` every few seconds until its "
            "`status` is `completed` or `error`, or name a `webhook_url`."
        ),
        body=Body(ref("TranscriptRequest"), examples=_JOBS),
        answers=_transcript("The job has been accepted.", queued=Example("Accepted", _QUEUED)),
    ),
    ("transcripts.list", "GET"): Page(
        tag=PRERECORDED,
        summary="List transcripts",
        description=(
            "Your team's transcripts, newest first, of all projects that the pool's keys belong to. `prev_url` leads "
            "to older ones."
        ),
        parameters=_LIST_PARAMETERS,
        answers={200: Answer("A page of transcripts.", json(ref("TranscriptList")))},
    ),
    ("transcripts.get", "GET"): Page(
        tag=PRERECORDED,
        summary="Get a transcript",
        description=(
            "The job and, once it is completed, its result. **A failed job is a 200, too**, with `status` `error` and "
            "the reason in `error`."
        ),
        answers=_transcript(
            "The job as it stands.",
            completed=Example("Completed", _COMPLETED),
            queued=Example("Not yet begun", _QUEUED),
            failed=Example("Failed", _FAILED),
        ),
    ),
    ("transcripts.delete", "DELETE"): Page(
        tag=PRERECORDED,
        summary="Delete a transcript",
        description="Wipes the transcript's data and the uploaded file at once. It cannot be undone.",
        answers=_transcript("It is wiped; what is left of it."),
    ),
    ("transcripts.sentences", "GET"): Page(
        tag=PRERECORDED,
        summary="Sentences",
        description="A completed transcript, sentence by sentence.",
        answers={200: Answer("The sentences.", json(ref("Sentences")))},
    ),
    ("transcripts.paragraphs", "GET"): Page(
        tag=PRERECORDED,
        summary="Paragraphs",
        description="A completed transcript, paragraph by paragraph.",
        answers={200: Answer("The paragraphs.", json(ref("Paragraphs")))},
    ),
    ("transcripts.srt", "GET"): _captions("SRT"),
    ("transcripts.vtt", "GET"): _captions("WebVTT"),
    ("transcripts.word_search", "GET"): Page(
        tag=PRERECORDED,
        summary="Search for words",
        description="Where words, numbers and phrases of up to five words are said in a completed transcript.",
        parameters=(
            Parameter("words", text(), "What to look for, separated by commas.", required=True, example="good,meeting"),
        ),
        answers={200: Answer("What was found; nothing is not an error.", json(ref("WordMatches")))},
    ),
    ("transcripts.redacted_audio", "GET"): Page(
        tag=PRERECORDED,
        summary="Redacted audio",
        description=(
            "Where to download the audio without personal data, for jobs with `redact_pii_audio`. A 400 says that "
            "there is none, or none any more: it is kept for 24 hours."
        ),
        answers={
            200: Answer("It is ready.", json(ref("RedactedAudio"))),
            202: Answer("It is being made; ask again later.", json(ref("RedactedAudio"))),
        },
    ),
}
