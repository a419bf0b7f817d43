"""Text to speech (``tts.us.assemblyai.com``)."""

from __future__ import annotations

from keypool_asgi.reference.pages import Answer, Body, Example, Frame, Page, Parameter, Schema, Socket
from keypool_asgi.reference.schemas import binary, choice, flag, integer, record, ref, text

from .common import SPEECH, ByOperation

__all__ = ["PAGES", "SCHEMAS"]

_VOICE = text("A voice's id: one of AssemblyAI's, such as `aai-jane`, or a custom voice of your team's.")
_ENCODING = choice("How the audio is encoded.", "pcm_s16le", "pcm_mulaw", "pcm_alaw", default="pcm_s16le")
_RATE = {
    "description": "Samples per second.",
    "type": "integer",
    "enum": [8000, 16_000, 22_050, 24_000, 44_100, 48_000],
    "default": 24_000,
}

SCHEMAS: dict[str, Schema] = {
    "SpeechRequest": record(
        required=("text",),
        text=text("What to say.", minLength=1),
        voice_id=_VOICE,
        model_id=text("The model.", default="assemblyai-tts-1"),
        language=text("The language of the text.", default="english"),
        container=choice("A file, or samples alone.", "raw", "wav", default="raw"),
        encoding=_ENCODING,
        sample_rate=_RATE,
        stream=flag("Send the audio as it is made.", default=False),
    ),
}

_HEADERS: dict[str, Schema] = {
    "X-TTS-Billed-Characters": integer("Characters that the request is charged by.", 0),
    "X-TTS-Audio-Duration-Ms": integer("Length of the audio in milliseconds, unless it is streamed.", 0),
    "X-TTS-Sample-Rate": integer("Samples per second.", 0),
    "X-Request-Id": text("What AssemblyAI's support knows the request by."),
}

_MESSAGES = Socket(
    sends=(
        Frame("Generate", "text to say, at most 2000 characters.", {"type": "Generate", "text": "Good morning."}),
        Frame("Flush", "has everything said that has come so far.", {"type": "Flush"}),
        Frame("Cancel", "drops what has not been said yet.", {"type": "Cancel"}),
        Frame("KeepAlive", "keeps a silent session open.", {"type": "KeepAlive"}),
        Frame("Terminate", "ends the session in order.", {"type": "Terminate"}),
    ),
    receives=(
        Frame("Begin", "the session is open; credentials and parameters are good.", {"type": "Begin", "id": "3c1e"}),
        Frame("Audio", "a piece of audio in Base64.", {"type": "Audio", "flush_id": 0, "audio": "AAAA"}),
        Frame("WordBoundaries", "when each word is said, unless `word_boundaries` is `false`."),
        Frame("FlushDone", "everything of a `Flush` has been sent.", {"type": "FlushDone", "flush_id": 0}),
        Frame("Cancelled", "the answer to `Cancel`."),
        Frame("Error", "the session ends; the close that follows has the same code."),
        Frame(
            "Termination",
            "the session has ended in order.",
            {"type": "Termination", "session_duration_seconds": 3, "total_input_char_length": 13},
        ),
    ),
    closes={
        1000: "The session has ended in order.",
        1008: "The token is missing, unknown or expired.",
        3005: "The service cancelled the session.",
        3006: "A parameter or message was not valid, or nothing came for too long.",
        3008: "The longest time of a session is over.",
        3009: "Too many sessions at the same time.",
        3010: "More than 8000 characters wait to be said.",
        3012: "The voice is no longer there.",
    },
)

PAGES: ByOperation = {
    ("speech.create", "POST"): Page(
        tag=SPEECH,
        summary="Have a text spoken",
        description="Returns the audio of a text. Custom voices must be your team's.",
        body=Body(
            ref("SpeechRequest"),
            examples={
                "file": Example("A WAV file", {"text": "Good morning.", "voice_id": "aai-jane", "container": "wav"}),
            },
        ),
        answers={
            200: Answer(
                "The audio.",
                (Body(binary("A WAV file."), "audio/wav"), Body(binary("Samples alone."), "audio/pcm")),
                headers=_HEADERS,
            )
        },
    ),
    ("speech.session", "WEBSOCKET"): Page(
        tag=SPEECH,
        summary="Have text spoken as it comes",
        description="Takes text piece by piece and returns audio piece by piece.",
        parameters=(
            Parameter("voice_id", _VOICE, "The voice. Its presence means text to speech.", example="aai-jane"),
            Parameter("model_id", text(default="assemblyai-tts-1"), "The model."),
            Parameter("language", text(default="english"), "The language of the text."),
            Parameter("word_boundaries", flag(default=True), "Have `WordBoundaries` sent."),
            Parameter("encoding", _ENCODING, "How the audio is encoded."),
            Parameter("sample_rate", _RATE, "Samples per second."),
        ),
        socket=_MESSAGES,
        when="if the query names a `voice_id`, a `model_id` or `word_boundaries`",
    ),
}
