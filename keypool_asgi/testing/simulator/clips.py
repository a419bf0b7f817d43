"""Short audio in one request: sync (``sync.assemblyai.com``) and dictation (``dictation.assemblyai.com``).

They share their paths; sync requests carry ``X-AAI-Model``, dictation requests do not.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from keypool_asgi.testing.audio import wav_seconds

from . import speech
from .values import Part, Refused, Reply, Request, json_reply
from .world import World

__all__ = ["dictate", "sync_buffered", "sync_live", "warm"]

SYNC_MODELS = ("universal-3-5-pro", "u3-sync-pro")
MAX_BYTES, MIN_SECONDS, MAX_SECONDS = 40_000_000, 0.08, 120.0
_DICTATION_FIELDS = frozenset(
    {"sample_rate", "channels", "language_codes", "stt_prompt", "keyterms_prompt", "llm_instruction", "rewrite_mode"}
)


def warm(world: World, request: Request) -> Reply:  # noqa: ARG001 # every handler takes both
    """``GET /v1/warm``: needs no key."""
    return json_reply({"status": "ok"})


def sync_live(world: World, request: Request) -> Reply:
    """``POST /v1/transcribe/live`` of the sync host: ``config`` must come before ``audio``."""
    _check_model(request)
    return json_reply(_clip(world, request, in_order=True)[0])


def sync_buffered(world: World, request: Request) -> Reply:
    """``POST /v1/transcribe`` of the sync host: the parts may come in any order."""
    _check_model(request)
    return json_reply(_clip(world, request, in_order=False)[0])


def dictate(world: World, request: Request) -> Reply:
    """``POST /v1/transcribe/live`` of the dictation host: ``config`` first, and nothing unknown in it."""
    if request.header(b"x-aai-model") is not None:
        raise Refused(400, "X-AAI-Model is not a field of the Dictation API", code="invalid_request")
    result, config = _clip(world, request, in_order=True)
    rewritten = result["text"].upper() if config.get("llm_instruction") else None
    return json_reply({**result, "llm_response": rewritten, "llm_error": None, "sync_time_ms": 3.0})


def _check_model(request: Request) -> None:
    if request.header(b"x-aai-model") not in SYNC_MODELS:
        raise Refused(400, "X-AAI-Model is missing or not a model of the sync API", code="invalid_model")


def _clip(world: World, request: Request, *, in_order: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = request.body.parts
    if parts is None:
        raise Refused(415, "A multipart/form-data body is expected", code="unsupported_media_type")
    names = [part.name for part in parts]
    if names.count("audio") != 1 or names.count("config") > 1 or set(names) - {"audio", "config"}:
        raise Refused(400, f"Parts are {names}, config and audio are expected", code="bad_request")
    if in_order and names != ["config", "audio"]:
        raise Refused(400, "The config part must come before the audio part", code="config_required_first")
    config = _config(next((part for part in parts if part.name == "config"), None), request)
    audio = next(part for part in parts if part.name == "audio")
    seconds = _seconds(audio, config)
    world.charge(request.key, request.service, "audio_seconds", seconds, request.body.sha256)
    return _result(request, config, seconds), config


def _config(part: Part | None, request: Request) -> dict[str, Any]:
    try:
        config = {} if part is None else json.loads(part.start)
    except ValueError:
        raise Refused(400, "The config part is not JSON", code="bad_config") from None
    if not isinstance(config, dict):
        raise Refused(400, "The config part is not a JSON object", code="bad_config")
    if request.service == "dictation" and (unknown := sorted(set(config) - _DICTATION_FIELDS)):
        raise Refused(400, f"Unknown fields in config: {', '.join(unknown)}", code="bad_config")
    return config


def _seconds(audio: Part, config: dict[str, Any]) -> float:
    if audio.size > MAX_BYTES:
        raise Refused(413, "The audio is over 40 MB", code="audio_too_large")
    seconds = wav_seconds(audio.start, audio.size)
    if seconds is None:
        rate, channels = config.get("sample_rate"), config.get("channels")
        if not isinstance(rate, int) or not isinstance(channels, int) or rate * channels <= 0:
            raise Refused(400, "Raw audio needs sample_rate and channels", code="bad_audio")
        seconds = audio.size / (2 * rate * channels)
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise Refused(400, "The audio must last from 80 ms to 120 s", code="bad_audio")
    return seconds


def _result(request: Request, config: dict[str, Any], seconds: float) -> dict[str, Any]:
    said = speech.words(request.body.sha256, seconds)
    timings = bool(config.get("timestamps"))
    words = [
        {
            "text": word.text,
            "confidence": word.confidence,
            **({"start": word.start, "end": word.end} if timings else {}),
        }
        for word in said
    ]
    return {
        "text": " ".join(word.text for word in said),
        "words": words,
        "confidence": round(sum(word.confidence for word in said) / len(said), 5),
        "audio_duration_ms": round(seconds * 1000),
        "session_id": str(uuid.uuid4()),
        "request_time_ms": 5.0,
    }
