"""Short audio in one request: Sync (``sync.assemblyai.com``) and Dictation (``dictation.assemblyai.com``)."""

from __future__ import annotations

from keypool_asgi.reference.pages import Answer, Body, Page, Parameter, Schema
from keypool_asgi.reference.schemas import binary, choice, integer, listed, maybe, number, record, ref, text

from .common import DICTATION, SYNC, ByOperation, json

__all__ = ["PAGES", "SCHEMAS"]

_FORM = Body(
    ref("Clip"),
    "multipart/form-data",
    description="A form of two parts, `config` first.",
)

_MODEL = Parameter(
    "X-AAI-Model",
    choice("", "universal-3-5-pro", "u3-sync-pro"),
    "The model of the Sync API. On paths that are shared with Dictation, its presence means Sync.",
    required=True,
    where="header",
    example="universal-3-5-pro",
)

_RESULT = {
    "text": text("Everything that was said."),
    "words": listed(
        record(required=("text",), text=text(), confidence=number("", 0, 1), start=integer("", 0), end=integer("", 0)),
        "Every word; with its time in milliseconds if `timestamps` was asked for.",
    ),
    "confidence": number("How sure the model is.", 0, 1),
    "audio_duration_ms": integer("Length of the audio in milliseconds, which it is charged by.", 0),
    "session_id": text("What AssemblyAI's support knows the request by."),
    "request_time_ms": number("Milliseconds that it took.", 0),
}

SCHEMAS: dict[str, Schema] = {
    "Clip": {
        "type": "object",
        "required": ["audio"],
        "properties": {
            "config": text(
                "Settings as JSON, `{}` for none. Raw PCM needs `sample_rate` and `channels`. For Sync also "
                "`timestamps`; for Dictation also `language_codes`, `stt_prompt`, `keyterms_prompt`, "
                "`llm_instruction` and `rewrite_mode`, and nothing else.",
                default="{}",
            ),
            "audio": binary("A 16-bit WAV file, or raw 16-bit PCM: 80 ms to 120 s, at most 40 MB."),
        },
    },
    "SyncTranscript": record(required=("text", "audio_duration_ms"), **_RESULT),
    "DictationTranscript": record(
        required=("text", "audio_duration_ms", "llm_response", "llm_error"),
        **_RESULT,
        llm_response=maybe(text("The text as rewritten by `llm_instruction`.")),
        llm_error=maybe(text("Why it could not be rewritten.")),
    ),
    "Warm": record("Nothing to read: that it answers is all."),
}

_WARM = {200: Answer("Warm.", json(ref("Warm")))}

PAGES: ByOperation = {
    ("sync.transcribe", "POST"): Page(
        tag=SYNC,
        summary="Transcribe a clip",
        description="Transcribes a clip of 80 ms to 120 s and returns its text within the same request.",
        parameters=(_MODEL,),
        body=_FORM,
        answers={200: Answer("The transcript.", json(ref("SyncTranscript")))},
        when="if the request has `X-AAI-Model`",
    ),
    ("sync.warm", "GET"): Page(
        tag=SYNC,
        summary="Warm up",
        description="Opens the connection ahead of the first clip. Works without a token, too.",
        parameters=(_MODEL,),
        answers=_WARM,
        when="if the request has `X-AAI-Model`",
    ),
    ("dictation.transcribe", "POST"): Page(
        tag=DICTATION,
        summary="Transcribe dictation",
        description=(
            "Transcribes a dictated clip and, with `llm_instruction` in `config`, has a language model rewrite it. "
            "`config` must be the first part."
        ),
        body=_FORM,
        answers={200: Answer("The transcript, and the rewritten text.", json(ref("DictationTranscript")))},
        when="if it has no `X-AAI-Model`",
    ),
    ("dictation.warm", "GET"): Page(
        tag=DICTATION,
        summary="Warm up",
        description="Opens the connection ahead of the first clip. Works without a token, too.",
        answers=_WARM,
        when="if it has no `X-AAI-Model`",
    ),
}
