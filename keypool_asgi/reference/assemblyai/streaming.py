"""Streaming transcription (``streaming.assemblyai.com``)."""

from __future__ import annotations

from keypool_asgi.reference.pages import Frame, Page, Parameter, Socket
from keypool_asgi.reference.schemas import choice, flag, integer, number, text

from .common import STREAMING, ByOperation
from .tokens import EXPIRES, MINTED, SESSION

__all__ = ["PAGES"]

_AUDIO_PARAMETERS = (
    Parameter("sample_rate", integer("", 8000, 96_000, default=16_000), "Samples per second of the audio."),
    Parameter(
        "encoding",
        choice("", "pcm_s16le", "pcm_mulaw", "opus", "ogg_opus", "aac", default="pcm_s16le"),
        "How the audio is encoded. With `opus`, every message is one packet.",
    ),
    Parameter("speech_model", text(default="universal-3-6-pro"), "The model."),
    Parameter("language_code", text(), "The language that is spoken, where the model needs to be told."),
    Parameter("language_detection", flag(default=False), "Find out the language from the audio."),
)
_TURN_PARAMETERS = (
    Parameter("format_turns", flag(default=True), "Add punctuation and casing to turns that have ended."),
    Parameter("include_partial_turns", flag(default=True), "Also send turns that are still going on."),
    Parameter("min_turn_silence", integer("", 0), "Milliseconds of silence after which a turn may end."),
    Parameter("max_turn_silence", integer("", 0), "Milliseconds of silence after which a turn ends in any case."),
    Parameter(
        "end_of_turn_confidence_threshold", number("", 0, 1), "How sure the model must be that a turn has ended."
    ),
    Parameter("vad_threshold", number("", 0, 1), "How loud speech must stand out from the rest to count as speech."),
)
_CONTENT_PARAMETERS = (
    Parameter(
        "keyterms_prompt",
        text(),
        "A JSON list of at most 100 words and phrases that are likely to be said, each of at most 50 characters.",
        example='["keypool", "AssemblyAI"]',
    ),
    Parameter("prompt", text(maxLength=1750), "What the model should know about the audio, in your own words."),
    Parameter("speaker_labels", flag(default=False), "Tell the speakers apart."),
    Parameter("max_speakers", integer("", 1), "The most speakers that are told apart."),
    Parameter("filter_profanity", flag(default=False), "Replace profanity by asterisks."),
    Parameter("redact_pii", flag(default=False), "Remove personal data from the text."),
)
_SESSION_PARAMETERS = (
    Parameter("inactivity_timeout", integer("", 5, 3600), "Seconds without audio after which the session ends."),
    Parameter("session_heartbeat", flag(default=False), "Have a `Heartbeat` sent every five seconds."),
)

_TURN = {
    "type": "Turn",
    "turn_order": 0,
    "end_of_turn": True,
    "turn_is_formatted": True,
    "transcript": "Good morning.",
    "words": [{"text": "Good", "start": 120, "end": 340, "confidence": 0.98, "word_is_final": True}],
}

_MESSAGES = Socket(
    sends=(
        Frame("audio", "binary; 50 to 1000 ms of audio in each message, at most 128 KB, not faster than real time."),
        Frame("ForceEndpoint", "ends the current turn now.", {"type": "ForceEndpoint"}),
        Frame(
            "UpdateConfiguration",
            "changes parameters of the running session.",
            {"type": "UpdateConfiguration", "max_turn_silence": 500},
        ),
        Frame("KeepAlive", "keeps a session without audio from ending for inactivity.", {"type": "KeepAlive"}),
        Frame(
            "Terminate", "ends the session in order. A session is paid for until it has ended.", {"type": "Terminate"}
        ),
    ),
    receives=(
        Frame(
            "Begin",
            "the session is open.",
            {"type": "Begin", "id": "e6e4cb39-0e6b-4f22-b2f1-2c8c3d1a5b90", "expires_at": 1795435200},
        ),
        Frame("SpeechStarted", "somebody has begun to speak.", {"type": "SpeechStarted", "timestamp": 120}),
        Frame("Turn", "a turn as it stands; with `end_of_turn` it will not change any more.", _TURN),
        Frame("Warning", "something is wrong, but the session goes on."),
        Frame("Error", "the session ends; the close that follows has the same code."),
        Frame(
            "Termination",
            "the session has ended in order.",
            {"type": "Termination", "audio_duration_seconds": 4, "session_duration_seconds": 5},
        ),
    ),
    closes={
        1000: "The session has ended in order.",
        1008: "The token is missing, unknown or expired, or a limit of the account is reached.",
        1009: "A message was too big: at most 128 KB.",
        1011: "An internal error.",
        3005: "The service cancelled the session.",
        3006: "A message was not valid, or nothing came for too long.",
        3007: "An audio message was not 50 to 1000 ms long, or audio came faster than real time.",
        3008: "The longest time of a session, three hours or the token's, is over.",
        3009: "Too many sessions at the same time.",
    },
)

PAGES: ByOperation = {
    ("streaming.token", "GET"): Page(
        tag=STREAMING,
        summary="Make a streaming token",
        description="A token that opens a streaming session, to be handed to a browser or a device.",
        parameters=(EXPIRES, SESSION),
        answers=MINTED,
    ),
    ("streaming.session", "WEBSOCKET"): Page(
        tag=STREAMING,
        summary="Stream live audio",
        description="Transcribes audio as it is spoken. On the reference page, the live panel tries it out.",
        parameters=(*_AUDIO_PARAMETERS, *_TURN_PARAMETERS, *_CONTENT_PARAMETERS, *_SESSION_PARAMETERS),
        socket=_MESSAGES,
    ),
}
