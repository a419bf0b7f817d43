"""The schemas of pre-recorded transcripts: what is asked for, what is returned, and the forms that it comes in."""

from __future__ import annotations

from keypool_asgi.reference.pages import Schema
from keypool_asgi.reference.schemas import choice, flag, integer, listed, maybe, number, record, ref, text

__all__ = ["SCHEMAS"]

_STATUS = choice(
    "`queued` and `processing` go on; `completed` has the result; `error` has the reason in `error`.",
    "queued",
    "processing",
    "completed",
    "error",
)
_CONFIDENCE = number("How sure the model is, 0 to 1.", 0, 1)
_START = integer("Where it starts, in milliseconds.", 0)
_END = integer("Where it ends, in milliseconds.", 0)
_SPEAKER = maybe(text("Who says it (`A`, `B`, ...), with `speaker_labels`."))
_CHANNEL = maybe(text("The audio channel, with `multichannel`."))
_WORDS = listed(ref("Word"), "Its words.")
_MODELS = listed(text(), "Models by priority; the first that knows the language is used.", minItems=1)

_TEXT_REQUEST = {
    "speech_models": {**_MODELS, "examples": [["universal-3-5-pro", "universal-2"]]},
    "language_code": text("The language that is spoken, such as `en`, `de` or `en_us`."),
    "language_detection": flag("Find out the language from the audio.", default=False),
    "language_confidence_threshold": number("With `language_detection`: fail below this confidence.", 0, 1),
    "punctuate": flag("Add punctuation.", default=True),
    "format_text": flag("Add casing, and write numbers as numbers.", default=True),
    "disfluencies": flag("Keep the ums and ahs.", default=False),
    "filter_profanity": flag("Replace profanity by asterisks.", default=False),
    "keyterms_prompt": listed(text(), "Words and phrases that are likely to be said."),
    "prompt": text("What the model should know about the audio, in your own words."),
    "temperature": number("How freely the model may choose.", 0, 1),
    "domain": text("A field with words of its own, such as `medical-v1`."),
    "custom_spelling": listed(
        {
            "type": "object",
            "properties": {"from": listed(text(), minItems=1), "to": text()},
            "required": ["from", "to"],
        },
        "How words are to be spelled.",
    ),
}
_SPEAKER_REQUEST = {
    "speaker_labels": flag("Tell the speakers apart; fills `utterances`.", default=False),
    "speakers_expected": integer("How many speakers there are, if you know.", 1),
    "speaker_options": record("Bounds for the number of speakers.", min_speakers_expected=integer("", 1)),
    "multichannel": flag("Transcribe each channel by itself.", default=False),
}
_SCOPE_REQUEST = {
    "audio_start_from": integer("Skip what comes before, in milliseconds.", 0),
    "audio_end_at": integer("Skip what comes after, in milliseconds.", 0),
    "speech_threshold": number("Fail if less than this share of the audio is speech.", 0, 1),
}
_REDACTION_REQUEST = {
    "redact_pii": flag("Remove personal data from the text.", default=False),
    "redact_pii_policies": listed(text(), "What to remove, such as `person_name` or `phone_number`."),
    "redact_pii_sub": choice("What stands in its place.", "hash", "entity_name"),
    "redact_pii_audio": flag("Also make an audio file with beeps, see `redacted-audio`.", default=False),
    "redact_pii_audio_quality": choice("The format of that file.", "mp3", "wav"),
}
_UNDERSTANDING_REQUEST = {
    "sentiment_analysis": flag("Tell the sentiment of each sentence.", default=False),
    "entity_detection": flag("Find names, places, dates and the like.", default=False),
    "speech_understanding": record(
        "Features of speech understanding, by name.", request=record("Feature name to its settings.")
    ),
    "summarization": flag("Summarise. Deprecated: use the LLM Gateway.", default=False, deprecated=True),
    "auto_chapters": flag("Split into chapters. Deprecated: use the LLM Gateway.", default=False, deprecated=True),
    "iab_categories": flag("Name the topics. Deprecated.", default=False, deprecated=True),
}
_WEBHOOK_REQUEST = {
    "webhook_url": text(
        'Where AssemblyAI posts `{"transcript_id": ..., "status": ...}` when the job is done. It calls this URL '
        "directly, not through the pool; fetch the transcript through the pool.",
        format="uri",
    ),
    "webhook_auth_header_name": text("A header that the call carries, so that you know who calls."),
    "webhook_auth_header_value": text("Its value.", writeOnly=True),
}

_RESULT = {
    "text": maybe(text("Everything that was said.")),
    "words": maybe(listed(ref("Word"), "Every word with its time.")),
    "utterances": maybe(listed(ref("Utterance"), "What each speaker said at a time, with `speaker_labels`.")),
    "confidence": maybe(_CONFIDENCE),
    "audio_duration": maybe(integer("Length of the audio in seconds; known once it is completed.", 0)),
    "audio_channels": maybe(integer("How many channels the audio has.", 1)),
    "language_code": maybe(text("The language, given or detected.")),
    "language_confidence": maybe(number("How sure the detection is.", 0, 1)),
    "speech_model_used": maybe(text("The model that was used.")),
    "error": maybe(text("Why it failed, when `status` is `error`. The HTTP status is 200 all the same.")),
    "throttled": maybe(flag("Whether it waits because too many jobs are running in the account.")),
    "webhook_status_code": maybe(integer("What your webhook answered.")),
    "webhook_auth": flag("Whether the webhook call carries a header of yours."),
}

_TIMED = {"text": text("What was said."), "start": _START, "end": _END, "confidence": _CONFIDENCE}


def _texts(name: str, item: str, description: str) -> Schema:
    return record(
        required=("id", name),
        id=text("The transcript's id."),
        confidence=_CONFIDENCE,
        audio_duration=number("Length of the audio in seconds.", 0),
        **{name: listed(ref(item), description)},
    )


SCHEMAS: dict[str, Schema] = {
    "Word": record(required=("text", "start", "end", "confidence"), **_TIMED, speaker=_SPEAKER, channel=_CHANNEL),
    "Utterance": record(
        required=("text", "start", "end", "speaker"), **_TIMED, speaker=text("Who says it."), words=_WORDS
    ),
    "Sentence": record(required=("text", "start", "end"), **_TIMED, words=_WORDS, speaker=_SPEAKER, channel=_CHANNEL),
    "Paragraph": record(required=("text", "start", "end"), **_TIMED, words=_WORDS),
    "Upload": record(
        required=("upload_url",),
        upload_url=text("For `audio_url` of `POST /v2/transcript`. Nobody can download from it.", format="uri"),
    ),
    "TranscriptRequest": record(
        "What to transcribe and how. Fields that are not described here are passed on as well.",
        required=("audio_url",),
        audio_url=text("An `upload_url`, or a public URL of at most 5 GB and 10 hours of audio.", format="uri"),
        **_TEXT_REQUEST,
        **_SPEAKER_REQUEST,
        **_SCOPE_REQUEST,
        **_REDACTION_REQUEST,
        **_UNDERSTANDING_REQUEST,
        **_WEBHOOK_REQUEST,
    ),
    "Transcript": record(
        "A job and, once it is completed, its result. It repeats the fields of the request, too.",
        required=("id", "status", "audio_url"),
        id=text("What to poll for."),
        status=_STATUS,
        audio_url=text("What is transcribed.", format="uri"),
        **_RESULT,
    ),
    "TranscriptItem": record(
        required=("id", "resource_url", "status", "created"),
        id=text("For the other operations."),
        resource_url=text("The transcript's URL at this pool.", format="uri"),
        status=_STATUS,
        created=text("When it was submitted, in UTC."),
        completed=maybe(text("When it ended, in UTC.")),
        audio_url=text("What is transcribed."),
        error=maybe(text("Why it failed.")),
    ),
    "PageDetails": record(
        "Where this page stands. Its URLs are the pool's own.",
        required=("limit", "result_count", "current_url", "prev_url", "next_url"),
        limit=integer("The most that a page holds.", 1, 200),
        result_count=integer("How many this one holds.", 0),
        current_url=text("This page."),
        prev_url=maybe(text("The page of **older** transcripts.")),
        next_url=maybe(text("The page of newer transcripts.")),
    ),
    "TranscriptList": record(
        required=("page_details", "transcripts"),
        page_details=ref("PageDetails"),
        transcripts=listed(ref("TranscriptItem"), "Your team's transcripts, newest first."),
    ),
    "Sentences": _texts("sentences", "Sentence", "The transcript by sentences."),
    "Paragraphs": _texts("paragraphs", "Paragraph", "The transcript by paragraphs."),
    "WordMatches": record(
        required=("id", "total_count", "matches"),
        id=text("The transcript's id."),
        total_count=integer("How often they were said altogether.", 0),
        matches=listed(
            record(
                required=("text", "count"),
                text=text("The word or phrase."),
                count=integer("How often it was said.", 1),
                timestamps=listed(listed(integer(), minItems=2, maxItems=2), "Start and end in milliseconds."),
                indexes=listed(integer(), "Its place in `words`."),
            ),
            "Those that were found.",
        ),
    ),
    "RedactedAudio": record(
        required=("status",),
        status=text("`redacted_audio_ready`, or that it is being made."),
        redacted_audio_url=text("Where to download it for 24 hours; no token is needed there.", format="uri"),
    ),
}
