"""Quotas through the whole stack, over a simulator on a real socket: what is counted is what it bills."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from faults.rig import Caller, rig, scope_of, simulated, until
from faults.session_rig import AUDIO, TERMINATE, SessionCaller, session_rig, socket_scope
from harness import run

from keypool_asgi.core.charging import Tariff
from keypool_asgi.core.limits import Charge, Limit
from keypool_asgi.core.reservations import standing
from keypool_asgi.providers.assemblyai.metering import METERING
from keypool_asgi.stages.quota import Quota
from keypool_asgi.testing import silence_wav

AUDIO_SECONDS = Limit("audio_seconds", 100_000, per="month", time_zone="Europe/Berlin")
STREAM_SECONDS = Limit("stream_seconds", 1000, per="month")
BYTES = Limit("upload_bytes", 10**9, per="month")
TOKENS = Limit("llm_tokens", 10**6, per="month")
CHARACTERS = Limit("tts_characters", 10**6, per="month")
STREAMS = Limit("streams", 5)
LIMITS = [AUDIO_SECONDS, STREAM_SECONDS, BYTES, TOKENS, CHARACTERS, STREAMS]


def metered(rig):
    """The same rig with a stage that knows AssemblyAI's figures."""
    stage = rig.app._parts.gate
    while not isinstance(stage, Quota):
        stage = stage.app
    stage.tariff = Tariff(METERING)
    return rig


def used(rig, limit):
    charge = Charge("team:team-a", limit)
    level = rig.quotas.seen([charge]).get(charge.slot)
    return limit.amount - standing(limit, level, int(time.time() * 1e6))[0]


async def ask(rig, method, target, body=None, *headers):
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    fields = headers if isinstance(body, bytes | None) else (*headers, (b"content-type", b"application/json"))
    caller = Caller([data or b""])
    await caller.call(rig.app, scope_of(method, target, *fields, body=None if data is None else len(data)))
    assert caller.status == 200, caller.body
    return caller


@pytest.mark.parametrize("settings", [{}, {"compress": True}, {"chunked": True}])
def test_a_workflow_counts_what_is_billed(settings):
    """Upload, transcript, polls: bytes as they were sent, seconds as they were billed, once."""

    async def scenario():
        simulator = simulated(completes_after_polls=2, **settings)
        with simulator.running():
            pool = metered(rig(simulator, limits=LIMITS))
            sound = silence_wav(61)
            upload = (await ask(pool, "POST", "/v2/upload", sound)).json["upload_url"]
            job = (await ask(pool, "POST", "/v2/transcript", {"audio_url": upload})).json["id"]
            assert used(pool, AUDIO_SECONDS) == 1
            for _ in range(4):
                await ask(pool, "GET", f"/v2/transcript/{job}", None, (b"accept-encoding", b"gzip, deflate, br"))
            await ask(pool, "GET", f"/v2/transcript/{job}/sentences")
            assert used(pool, BYTES) == len(sound)
            assert used(pool, AUDIO_SECONDS) == simulator.billed("audio_seconds") == 61
            await pool.nothing_left()

    run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_a_chat(stream):
    async def scenario():
        simulator = simulated(stream_interval=0)
        with simulator.running():
            pool = metered(rig(simulator, limits=LIMITS))
            wanted = {"model": "claude-sonnet-5", "messages": [{"role": "user", "content": "Hello there"}]}
            body = {**wanted, "stream": True, "stream_options": {"include_usage": True}} if stream else wanted
            await ask(pool, "POST", "/v1/chat/completions", body)
            billed = simulator.billed("input_tokens") + simulator.billed("output_tokens")
            assert used(pool, TOKENS) == billed > 0

    run(scenario())


def test_a_clip_and_a_voice():
    async def scenario():
        simulator = simulated()
        with simulator.running():
            pool = metered(rig(simulator, limits=LIMITS))
            await ask(pool, "POST", "/v1/speech", {"text": "Good morning", "voice_id": "aai-jane"})
            assert used(pool, CHARACTERS) == len("Good morning")

    run(scenario())


def test_a_session_counts_its_seconds():
    async def scenario():
        simulator = simulated()
        with simulator.running():
            pool = metered(session_rig(simulator, limits=LIMITS))
            caller = SessionCaller([AUDIO, TERMINATE], after=[1, 1])
            await caller.call(pool.app, socket_scope())
            closing = [json.loads(one["text"]) for one in caller.sent if "Termination" in str(one.get("text"))]
            assert used(pool, STREAM_SECONDS) == closing[0]["session_duration_seconds"]
            assert used(pool, STREAMS) == 0
            await pool.nothing_left()

    run(scenario())


def test_a_session_ends_when_its_team_runs_out():
    """Upstream is told in order, the caller reads why, and no more than was admitted is used."""

    async def scenario():
        limit = Limit("stream_seconds", 4, per="month")
        simulator = simulated()
        with simulator.running():
            pool = metered(session_rig(simulator, limits=[limit, STREAMS]))
            caller = SessionCaller([AUDIO])
            going = asyncio.create_task(caller.call(pool.app, socket_scope()))
            async with asyncio.timeout(30):
                await going
            assert caller.sent[-1]["type"] == "websocket.close"
            assert caller.sent[-1]["code"] == 4429
            assert "4 streaming seconds per month" in caller.sent[-1]["reason"]
            assert used(pool, limit) <= 4
            refused = SessionCaller()
            if used(pool, limit) == 4:
                await refused.call(pool.app, socket_scope())
                assert refused.sent[0]["status"] == 429
            await until(lambda: not used(pool, STREAMS))
            await pool.nothing_left()

    run(scenario())
