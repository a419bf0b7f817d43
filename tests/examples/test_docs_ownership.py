"""docs/ownership.md is true: its code runs, its figures are the package's."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import assemblyai
import httpx
import pytest
from blocks import Blocks, section
from harness import secret, token
from readers import here, pool, submit  # noqa: F401 - a fixture

from keypool_asgi import cli
from keypool_asgi.core.resources import MEMORY_ENTRIES, RETENTION_SECONDS
from keypool_asgi.testing import Simulator

DOCUMENT = "docs/ownership.md"
BLOCKS = Blocks(DOCUMENT)

Sdk = Callable[[str, str], assemblyai.Transcriber]


def test_every_block_has_a_check() -> None:
    BLOCKS.check(globals())


def test_block_state() -> None:
    with pool(BLOCKS.execute("state")["pool"]) as base:
        made = submit(base).json()["id"]
    with pool(BLOCKS.execute("state")["pool"]) as base:
        teams = [token("research"), token("archive")]
        answers = [httpx.get(f"{base}/v2/transcript/{made}", headers={"authorization": team}) for team in teams]
        nothing = httpx.get(f"{base}/v2/transcript/{made[::-1]}", headers={"authorization": teams[1]})
    assert [answer.status_code for answer in answers] == [200, 404]
    assert answers[1].json()["error"] == nothing.json()["error"]


def test_block_adopt(simulator: Simulator, sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = sdk(simulator.url, secret("good")).transcribe("meeting.mp3")
    monkeypatch.setenv("ASSEMBLYAI_API_KEY", secret("good"))
    program, *arguments = shlex.split(BLOCKS["adopt"])
    assert program == "keypool"
    assert cli.main([*arguments, "--api", simulator.url]) == 0
    with pool(BLOCKS.execute("state")["pool"]) as base:
        adopted = httpx.get(f"{base}/v2/transcript/{transcript.id}", headers={"authorization": token("research")})
    assert adopted.json()["text"] == transcript.text


def test_how_long_owners_are_remembered() -> None:
    told = " ".join(section(DOCUMENT, "Where owners are remembered").split())
    days = {kind: seconds / 86_400 for kind, seconds in RETENTION_SECONDS.items()}
    assert f"Uploads are remembered for {days['upload']:g} days, transcripts for {days['transcript']:g} " in told
    assert days["token"] == days["session"] == 4 / 24
    assert "temporary tokens and sessions for 4 hours" in told
    assert f"at most {MEMORY_ENTRIES:,} owners" in told
