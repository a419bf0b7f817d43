"""Text to speech (``tts.us.assemblyai.com``): ``POST /v1/speech``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from keypool_asgi.testing.audio import tone_wav

from .values import Headers, Refused, Reply, Request
from .world import World

__all__ = ["speak"]

_SECONDS_PER_CHARACTER, _SAMPLE_RATE, _PIECE = 0.06, 24_000, 3_840  # a piece is 80 ms of 16-bit audio
_LOWEST_RATE, _HIGHEST_RATE = 8_000, 48_000


def speak(world: World, request: Request) -> Reply:
    """``POST /v1/speech``: raw 16-bit PCM or WAV, streamed in pieces of 80 ms with ``stream: true``."""
    wanted = request.json()
    text = wanted.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, "text is required", code="invalid_parameter")
    rate, container = _rate(wanted), _word(wanted, "container", "raw")
    request_id = str(uuid.uuid4())
    headers: Headers = [
        (b"Content-Type", b"audio/wav" if container == "wav" else f"audio/pcm;rate={rate};channels=1".encode()),
        (b"X-Request-Id", request_id.encode()),
        (b"X-TTS-Region", request.region.encode()),
        (b"X-TTS-Model", _word(wanted, "model_id", "assemblyai-tts-1").encode()),
        (b"X-TTS-Voice-Id", _word(wanted, "voice_id", "aai-jane").encode()),
        (b"X-TTS-Language", _word(wanted, "language", "english").lower().encode()),
        (b"X-TTS-Encoding", b"pcm_s16le"),
        (b"X-TTS-Sample-Rate", str(rate).encode()),
        (b"X-TTS-Container", container.encode()),
        (b"X-TTS-Billed-Characters", str(len(text)).encode()),
    ]
    world.charge(request.key, "tts", "characters", len(text), request_id)
    audio = tone_wav(len(text) * _SECONDS_PER_CHARACTER, sample_rate=rate)
    audio = audio if container == "wav" else audio[44:]
    if wanted.get("stream"):
        return Reply(200, headers, tuple(_pieces(audio)), pause=world.stream_interval)
    return Reply(200, [*headers, _duration(len(text))], audio)


def _word(wanted: Mapping[str, Any], name: str, default: str) -> str:
    """A setting that the answer repeats in its header, where only visible ASCII may stand (RFC 9110, section 5.5)."""
    value = wanted.get(name) or default
    if not isinstance(value, str) or not all("!" <= character <= "~" for character in value):
        raise Refused(400, f"{name} is invalid", code="invalid_parameter")
    return value


def _rate(wanted: Mapping[str, Any]) -> int:
    rate = wanted.get("sample_rate") or _SAMPLE_RATE
    if not isinstance(rate, int) or not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise Refused(400, "sample_rate is invalid", code="invalid_parameter")
    return rate


def _pieces(audio: bytes) -> Iterator[bytes]:
    for start in range(0, len(audio), _PIECE):
        yield audio[start : start + _PIECE]


def _duration(characters: int) -> tuple[bytes, bytes]:
    return b"X-TTS-Audio-Duration-Ms", str(round(characters * _SECONDS_PER_CHARACTER * 1000)).encode()
