"""LiveKit's AssemblyAI plugin, speech to text and text to speech, through the pool over TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from harness import run, secret
from livekit import rtc
from livekit.agents import APIConnectOptions
from livekit.agents.stt import SpeechEventType
from livekit.plugins import assemblyai
from sdk.gateway import TOKEN
from sdk.streaming_pool import Live, live

from keypool_asgi import Limit, Team
from keypool_asgi.testing import Simulator, tone_wav

RATE, SECONDS, PIECE = 16_000, 3.0, 3200
SOUND = tone_wav(SECONDS)[44:]
ONE_ATTEMPT = APIConnectOptions(max_retry=0, timeout=10)


@asynccontextmanager
async def session_of(pool: Live) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=str(pool.served.ca))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        yield http


async def transcribed(pool: Live, token: str | None = None, attempts: APIConnectOptions = ONE_ATTEMPT) -> list[str]:
    """Say the sound, in real time, and return the final transcripts."""
    async with session_of(pool) as http:
        stt = assemblyai.STT(api_key=token or pool.token, base_url=pool.url.replace("https", "wss"), http_session=http)
        stream = stt.stream(conn_options=attempts)
        saying = asyncio.create_task(say(stream))
        try:
            return [
                event.alternatives[0].text async for event in stream if event.type is SpeechEventType.FINAL_TRANSCRIPT
            ]
        finally:
            saying.cancel()
            await stream.aclose()
            await stt.aclose()


async def say(stream: Any) -> None:
    for at in range(0, len(SOUND), PIECE):
        stream.push_frame(rtc.AudioFrame(SOUND[at : at + PIECE], RATE, 1, PIECE // 2))
        await asyncio.sleep(PIECE / 2 / RATE)
    stream.end_input()


def test_livekit_transcribes() -> None:
    with live() as pool:
        texts = run(transcribed(pool))

        assert texts
        assert all(texts)
        pool.rest()
        session = pool.sim.sessions[-1]
        assert session.state == "terminated"
        assert session.audio_seconds == pytest.approx(SECONDS, abs=0.2)


def test_livekit_speaks() -> None:
    async def spoken(pool: Live) -> int:
        async with session_of(pool) as http:
            tts = assemblyai.TTS(api_key=pool.token, base_url=pool.url.replace("https", "wss"), http_session=http)
            async with tts.stream(conn_options=ONE_ATTEMPT) as stream:
                stream.push_text("The meeting begins at nine.")
                stream.end_input()
                audio = [len(event.frame.data) async for event in stream]
            await tts.aclose()
        return sum(audio)

    with live() as pool:
        assert run(spoken(pool)) > RATE  # more than half a second of samples


REFUSALS = {
    401: ({}, "not-a-token"),
    403: ({"operations": ["transcripts.*"]}, None),
    429: ({"limits": [Limit("requests", 1, per="hour")]}, None),
}


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_livekit_shows_the_status_of_a_refusal_and_does_not_try_again(status: int) -> None:
    """It shows no text of a refusal, whatever its form; a status it takes as final at once."""
    changes, token = REFUSALS.get(status, ({}, None))
    settings = {"teams": {TOKEN: Team("sdk-users", **changes)}} if changes else {}
    dead = Simulator({secret("sdk-a"): "acme/alpha", secret("sdk-b"): "beta-corp/beta"})
    if status == 503:
        dead.revoke_key(secret("sdk-a"))
        dead.revoke_key(secret("sdk-b"))
    with live(simulator=dead, **settings) as pool:
        if status == 429:
            run(transcribed(pool))
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            run(transcribed(pool, token, APIConnectOptions(max_retry=3)))

        assert caught.value.status == status
        assert pool.refused(1)
