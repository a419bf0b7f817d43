"""Pipecat's AssemblyAI service through the pool over TLS."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import secret
from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, InputAudioRawFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.assemblyai.stt import AssemblyAISTTService
from sdk.gateway import TOKEN
from sdk.streaming_pool import Live, live

from keypool_asgi import Limit, Team
from keypool_asgi.testing import Simulator, tone_wav

RATE, SECONDS, PIECE = 16_000, 3.0, 3200
SOUND = tone_wav(SECONDS)[44:]


@dataclass
class Heard:
    """What came out of a pipeline."""

    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Ear(FrameProcessor):
    """Notes transcripts as they pass."""

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self.heard = heard

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.heard.texts.append(frame.text)
        await self.push_frame(frame, direction)


# Pipecat leaves a task of its own behind where it could not connect, so this is run plainly.
async def piped(pool: Live, token: str | None = None, *, until_error: bool = False) -> Heard:
    """Run a pipeline over the sound, in real time, or only until it tells of an error."""
    heard, failed = Heard(), asyncio.Event()
    service = AssemblyAISTTService(
        api_key=token or pool.token,
        api_endpoint_base_url=pool.url.replace("https", "wss") + "/v3/ws",
        vad_force_turn_endpoint=False,
    )
    task = PipelineTask(
        Pipeline([service, Ear(heard)]), params=PipelineParams(audio_in_sample_rate=RATE), enable_rtvi=False
    )
    task.set_reached_upstream_filter((ErrorFrame,))

    @task.event_handler("on_frame_reached_upstream")
    async def on_error(_task: Any, frame: ErrorFrame) -> None:
        heard.errors.append(frame.error)
        failed.set()

    async def say() -> None:
        for at in range(0, len(SOUND), PIECE):
            await task.queue_frame(InputAudioRawFrame(SOUND[at : at + PIECE], RATE, 1))
            await asyncio.sleep(PIECE / 2 / RATE)
        if until_error:
            await failed.wait()
            await task.cancel()
        else:
            await task.queue_frame(EndFrame())

    saying = asyncio.create_task(say())
    await PipelineRunner(handle_sigint=False).run(task)
    await saying
    return heard


def test_pipecat_transcribes() -> None:
    with live() as pool:
        heard = asyncio.run(piped(pool))

        assert heard.errors == []
        assert heard.texts
        pool.rest()
        session = pool.sim.sessions[-1]
        assert session.state == "terminated"
        assert session.audio_seconds == pytest.approx(SECONDS, abs=0.2)


REFUSALS = {
    401: ({}, "not-a-token"),
    403: ({"operations": ["transcripts.*"]}, None),
    429: ({"limits": [Limit("requests", 1, per="hour")]}, None),
}


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_pipecat_shows_the_status_of_a_refusal(status: int) -> None:
    changes, token = REFUSALS.get(status, ({}, None))
    settings = {"teams": {TOKEN: Team("sdk-users", **changes)}} if changes else {}
    dead = Simulator({secret("sdk-a"): "acme/alpha", secret("sdk-b"): "beta-corp/beta"})
    if status == 503:
        dead.revoke_key(secret("sdk-a"))
        dead.revoke_key(secret("sdk-b"))
    with live(simulator=dead, **settings) as pool:
        if status == 429:
            asyncio.run(piped(pool))
        heard = asyncio.run(piped(pool, token, until_error=True))

        assert f"HTTP {status}" in heard.errors[0]
