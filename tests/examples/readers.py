"""What the documents leave to their reader: the service, the environment, a recording in the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from blocks import ROOT
from harness import secret, serve, token

from keypool_asgi import assembly
from keypool_asgi.testing import Simulator, silence_wav

__all__ = ["PEPPER", "answer_of", "here", "pool", "process", "submit"]

PEPPER = "pp-kp-pepper-of-the-documents"


@pytest.fixture(autouse=True)
def here(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's machine, with the simulator where AssemblyAI would be."""
    monkeypatch.setattr(assembly, "ASSEMBLYAI", assembly.ASSEMBLYAI.with_origins(simulator.origins))
    monkeypatch.setenv("ASSEMBLYAI_KEY_1", secret("good"))
    monkeypatch.setenv("ASSEMBLYAI_KEY_2", secret("spare"))
    monkeypatch.setenv("RESEARCH_TOKEN", token("research"))
    monkeypatch.setenv("ARCHIVE_TOKEN", token("archive"))
    monkeypatch.setenv("TEAM_TOKEN", token("research"))
    monkeypatch.setenv("TOKEN_PEPPER", PEPPER)
    monkeypatch.setenv("KEYPOOL_PEPPER", PEPPER)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meeting.mp3").write_bytes(silence_wav(2))


@contextmanager
def pool(app: Any) -> Iterator[str]:
    """Serve an app; gives the pool's URL in it."""
    with serve(app) as served:
        yield f"{served.url}/v1/assemblyai"


def submit(base: str, team: str = "research") -> httpx.Response:
    """Submit a job."""
    job = {"audio_url": "https://example.com/meeting.mp3"}
    return httpx.post(f"{base}/v2/transcript", json=job, headers={"authorization": token(team)})


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process of its own, which writes to a log, and end it as an operator does."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path.cwd()}"}
    with log.open("wb") as file:
        running = subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=file, env=environment)
    try:
        yield running
        running.terminate()
        running.wait(30)
    finally:
        running.kill()
        running.wait()


def answer_of(url: str, within: float = 30) -> httpx.Response:
    """Wait for a server to be up, and return its answer."""
    deadline = time.monotonic() + within
    while True:
        try:
            return httpx.get(url, headers={"authorization": token("research")}, timeout=10)
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.05)
