"""Text to speech (``tts.us.assemblyai.com``): ``POST /v1/speech``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from keypool_asgi.testing.audio import tone_wav

from .values import Headers, Refused, Reply, Request
from .world import World

__all__ = ["speak"]

_SECONDS_PER_CHARACTER, _SAMPLE_RATE, _PIECE = 0.06, 24_000, 3_840  # a piece is 80 ms of 16-bit audio


def speak(world: World, request: Request) -> Reply:
    """``POST /v1/speech``: raw 16-bit PCM or WAV, streamed in pieces of 80 ms with ``stream: true``."""
    wanted = request.json()
    text = wanted.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, "text is required", code="invalid_parameter")
    request_id = str(uuid.uuid4())
    world.charge(request.key, "tts", "characters", len(text), request_id)
    rate = int(wanted.get("sample_rate") or _SAMPLE_RATE)
    container = wanted.get("container") or "raw"
    audio = tone_wav(len(text) * _SECONDS_PER_CHARACTER, sample_rate=rate)
    audio = audio if container == "wav" else audio[44:]
    headers: Headers = [
        (b"Content-Type", b"audio/wav" if container == "wav" else f"audio/pcm;rate={rate};channels=1".encode()),
        (b"X-Request-Id", request_id.encode()),
        (b"X-TTS-Region", request.region.encode()),
        (b"X-TTS-Model", str(wanted.get("model_id") or "assemblyai-tts-1").encode()),
        (b"X-TTS-Voice-Id", str(wanted.get("voice_id") or "aai-jane").encode()),
        (b"X-TTS-Language", str(wanted.get("language") or "english").lower().encode()),
        (b"X-TTS-Encoding", b"pcm_s16le"),
        (b"X-TTS-Sample-Rate", str(rate).encode()),
        (b"X-TTS-Container", str(container).encode()),
        (b"X-TTS-Billed-Characters", str(len(text)).encode()),
    ]
    if wanted.get("stream"):
        return Reply(200, headers, tuple(_pieces(audio)), pause=world.stream_interval)
    return Reply(200, [*headers, _duration(len(text))], audio)


def _pieces(audio: bytes) -> Iterator[bytes]:
    for start in range(0, len(audio), _PIECE):
        yield audio[start : start + _PIECE]


def _duration(characters: int) -> tuple[bytes, bytes]:
    return b"X-TTS-Audio-Duration-Ms", str(round(characters * _SECONDS_PER_CHARACTER * 1000)).encode()
