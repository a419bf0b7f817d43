"""What AssemblyAI's operations use up, and which members of its answers say so."""

from __future__ import annotations

import math
from collections.abc import Mapping

from keypool_asgi.core.metering import Figures, Found, Metering

__all__ = ["METERING"]


def _whole(value: object) -> int | None:
    """A figure as a whole number, rounded up; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**50:
        return None
    return math.ceil(value)


def _of_job(found: Found) -> Mapping[str, int] | None:
    """A transcript's length in whole seconds once it is completed. Failed ones are free."""
    if found.get("status") == "error":
        return {"audio_seconds": 0}
    seconds = _whole(found.get("audio_duration"))
    return {"audio_seconds": seconds} if seconds is not None and found.get("status") == "completed" else None


def _of_parts(found: Found) -> Mapping[str, int] | None:
    """Sentences and paragraphs are of completed transcripts only."""
    seconds = _whole(found.get("audio_duration"))
    return None if seconds is None else {"audio_seconds": seconds}


def _of_clip(found: Found) -> Mapping[str, int] | None:
    milliseconds = _whole(found.get("audio_duration_ms"))
    return None if milliseconds is None else {"audio_seconds": -(-milliseconds // 1000)}


# The total, or its two parts by either of their names: an event stream carries the model maker's own.
_TOKEN_MEMBERS = (
    ("usage.total_tokens",),
    ("usage.input_tokens", "usage.output_tokens"),
    ("usage.prompt_tokens", "usage.completion_tokens"),
)


def _of_tokens(found: Found) -> Mapping[str, int] | None:
    for members in _TOKEN_MEMBERS:
        counts = [count for member in members if (count := _whole(found.get(member))) is not None]
        if len(counts) == len(members):
            return {"llm_tokens": sum(counts)}
    return None


_TRANSCRIPT_MODEL = ("speech_model_used",)
_LLM_MODELS = ("model", "request.model")

_JOB = Figures(frozenset({"status", "audio_duration", *_TRANSCRIPT_MODEL}), _of_job, _TRANSCRIPT_MODEL)
_PARTS = Figures(frozenset({"audio_duration", *_TRANSCRIPT_MODEL}), _of_parts, _TRANSCRIPT_MODEL)
_CLIP = Figures(frozenset({"audio_duration_ms"}), _of_clip)
_TOKENS = Figures(
    frozenset({*_LLM_MODELS, *(name for names in _TOKEN_MEMBERS for name in names)}), _of_tokens, _LLM_MODELS
)

_AUDIO = ("audio_seconds",)
_OF_TRANSCRIPT = Metering(figures=_PARTS, ends="transcript_id", begun_by="transcripts.create")
_CLIPS = Metering(body="upload_bytes", units=_AUDIO, figures=_CLIP)
_LLM = Metering(units=("llm_tokens",), figures=_TOKENS)

_SESSION = Metering(session="stream_seconds", closing={"session_duration_seconds": "stream_seconds"})
_MINTED = Metering(units=("stream_seconds",), lasts="max_session_duration_seconds", longest=10_800, shortest=60)

METERING: Mapping[str, Metering] = {
    "uploads.create": Metering(body="upload_bytes"),
    "transcripts.create": Metering(units=_AUDIO, begins="id"),
    "transcripts.get": Metering(figures=_JOB, ends="transcript_id", begun_by="transcripts.create"),
    "transcripts.sentences": _OF_TRANSCRIPT,
    "transcripts.paragraphs": _OF_TRANSCRIPT,
    "sync.transcribe": _CLIPS,
    "dictation.transcribe": _CLIPS,
    "llm.chat": _LLM,
    "llm.understanding": _LLM,
    "speech.create": Metering(units=("tts_characters",), field=b"x-tts-billed-characters"),
    "streaming.session": _SESSION,
    "agents.session": _SESSION,
    "speech.session": Metering(units=("tts_characters",), closing={"total_input_char_length": "tts_characters"}),
    "streaming.token": _MINTED,
    "agents.token": _MINTED,
}
"""Operation to what it uses up. One that is missing uses requests only."""
